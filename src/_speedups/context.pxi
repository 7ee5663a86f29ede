# Carrying context variables back over a hop.
#
# The trie that two equal contexts share is what `Context` shows the garbage collector. Its
# ``tp_traverse`` can be asked directly: nobody runs in either context at the time (`after` has been
# left, `before` was never entered), so this is safe without the GIL, too.

cdef extern from *:
    """
    #include <string.h>
    static int asgibridge_find_trie(PyObject *referent, void *found) {
        if (strcmp(Py_TYPE(referent)->tp_name, "hamt") == 0) {
            *(PyObject **)found = referent;
            return 1;
        }
        return 0;
    }
    /* Borrowed; NULL if this Python's contexts are made otherwise. */
    static PyObject *asgibridge_trie(PyObject *context) {
        PyObject *found = NULL;
        if (Py_TYPE(context)->tp_traverse != NULL)
            (void)Py_TYPE(context)->tp_traverse(context, asgibridge_find_trie, &found);
        return found;
    }
    """
    PyObject* asgibridge_trie(object context)

cdef object _MISSING = object()


def restore_context(after, before):
    """Set in the current context whatever ``after`` has that ``before`` did not have.

    ``before`` is the context as the called side got it, ``after`` as it left it. Variables that it
    did not touch stay as they are now, even if somebody else who shares the current context has
    changed them in the meantime.
    """
    cdef PyObject* trie
    if type(after) is Context and type(before) is Context:
        trie = asgibridge_trie(after)
        if trie is not NULL and trie is asgibridge_trie(before):
            return
    for variable, value in after.items():
        if before.get(variable, _MISSING) is not value and variable.get(_MISSING) is not value:
            variable.set(value)


def are_same(these, list those):
    """Whether ``these`` gives the objects of ``those``, in the same order. Nothing is compared."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t n = len(those)
    for each in these:
        if i == n or each is not those[i]:
            return False
        i += 1
    return i == n
