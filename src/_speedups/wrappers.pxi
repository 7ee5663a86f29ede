# Making a wrapper look like what it wraps.
#
# A plain function's attributes are read from its C structure, without asking its type where they
# are; not so where there is no GIL, because another thread may be replacing them.

cdef extern from *:
    """
    /* Borrowed; NULL if the attribute has to be asked for. In the order of this Python's
       functools.WRAPPER_ASSIGNMENTS. */
    #ifdef Py_GIL_DISABLED
      #define ASGIBRIDGE_READS_FIELDS 0
      #define asgibridge_function_field(function, index) NULL
    #else
      #define ASGIBRIDGE_READS_FIELDS 1
      static PyObject *asgibridge_function_field(PyObject *object, Py_ssize_t index) {
          PyFunctionObject *function = (PyFunctionObject *)object;
          switch (index) {
          case 0: return function->func_module;
          case 1: return function->func_name;
          case 2: return function->func_qualname;
          case 3: return function->func_doc;
      #if PY_VERSION_HEX < 0x030E0000
          case 4:  /* From 3.10 on it may be a tuple, until somebody asks. From 3.14 on, another. */
              return function->func_annotations != NULL && PyDict_Check(function->func_annotations)
                         ? function->func_annotations : NULL;
      #endif
      #if PY_VERSION_HEX >= 0x030C0000
          case 5: return function->func_typeparams;
      #endif
          }
          return NULL;
      }
    #endif
    /* That it has no attributes of its own; asking for its __dict__ would make one. */
    static int asgibridge_function_is_bare(PyObject *function) {
        PyObject *names;
        int is_bare;
    #ifdef Py_GIL_DISABLED
        Py_BEGIN_CRITICAL_SECTION(function);
    #endif
        names = ((PyFunctionObject *)function)->func_dict;
        is_bare = names == NULL || PyDict_GET_SIZE(names) == 0;
    #ifdef Py_GIL_DISABLED
        Py_END_CRITICAL_SECTION();
    #endif
        return is_bare;
    }
    """
    bint ASGIBRIDGE_READS_FIELDS
    PyObject* asgibridge_function_field(object function, Py_ssize_t index)
    bint asgibridge_function_is_bare(object function)

cdef extern from "Python.h":
    bint PyFunction_Check(object function)
    PyObject** _PyObject_GetDictPtr(object of)
    int PyObject_GenericSetDict(object of, object namespace, void* context) except -1

cdef object _partial = functools.partial
cdef tuple _ASSIGNMENTS = functools.WRAPPER_ASSIGNMENTS
cdef enum:
    _MOST_ASSIGNMENTS = 6
cdef bint _reads_fields = (
    ASGIBRIDGE_READS_FIELDS
    and _ASSIGNMENTS[:4] == ("__module__", "__name__", "__qualname__", "__doc__")
    and _ASSIGNMENTS[4:]
    in (
        ("__annotations__",),
        ("__annotations__", "__type_params__"),
        ("__annotate__", "__type_params__"),
    )
)
# Copying a dict and replacing its values takes half the time of filling a new one.
cdef dict _wrapper_names = dict.fromkeys(
    (
        *_ASSIGNMENTS, "__wrapped__",
        "_is_coroutine_marker" if hasattr(inspect, "markcoroutinefunction") else "_is_coroutine",
        "func", "context", "_thread_sensitive", "_executor",
    )
)
_COROUTINE_MARKS = ("_is_coroutine", "_is_coroutine_marker")
# What, in a function's __dict__, inspect would go by.
cdef frozenset _SAY_MORE = frozenset((*_COROUTINE_MARKS, "_partialmethod", "__partialmethod__"))
cdef object _Method = types.MethodType


cdef inline bint _is_bare(object function):
    return PyFunction_Check(function) and asgibridge_function_is_bare(function)


cdef inline object _assignment(object wrapped, Py_ssize_t index, bint is_function):
    cdef PyObject* value
    if is_function:
        value = asgibridge_function_field(wrapped, index)
        if value is not NULL:
            return <object>value
        if index == 5:
            return ()
    return getattr(wrapped, _ASSIGNMENTS[index], _MISSING)


cdef int _adopt_names(dict namespace, object cls, object wrapped) except -1:
    names = getattr(wrapped, "__dict__", None)
    if names:
        defined = cls.__dict__
        for name, value in names.items():
            if name not in _COROUTINE_MARKS and name not in defined:
                namespace[name] = value


def is_async_def(function):
    """Whether ``function`` is an ``async def``; None if it is not as simple as that.

    Then `inspect.iscoroutinefunction` has to be asked, of it and of its ``__call__``.
    """
    if type(function) is _Method:
        function = function.__func__
    if _is_bare(function) or (
        PyFunction_Check(function) and _SAY_MORE.isdisjoint(function.__dict__)
    ):
        return (function.__code__.co_flags & 0x80) != 0  # inspect.CO_COROUTINE
    return None


def adopt(wrapper, wrapped, mark=None):
    """`functools.update_wrapper`, and ``__self__``, for what wraps a function for other callers.

    Of what is in the function's ``__dict__`` it leaves out what the wrapper's class defines, and
    the marks by which a function passes for a coroutine function.

    :param mark: such a mark (its name and value), which the wrapper gets.
    """
    cdef Py_ssize_t index
    cdef bint is_function = _reads_fields and PyFunction_Check(wrapped)
    cdef PyObject** of_wrapper
    # Each of these names gets its value here or in the wrapper's __init__.
    if is_function and isinstance(wrapper, SyncWrapper):
        of_wrapper = _PyObject_GetDictPtr(wrapper)
        if of_wrapper is not NULL and of_wrapper[0] is NULL:
            PyObject_GenericSetDict(wrapper, _wrapper_names.copy(), NULL)
    for index in range(len(_ASSIGNMENTS)):
        value = _assignment(wrapped, index, is_function)
        if value is not _MISSING:
            setattr(wrapper, _ASSIGNMENTS[index], value)
    if not _is_bare(wrapped):
        _adopt_names(wrapper.__dict__, type(wrapper), wrapped)
    wrapper.__wrapped__ = wrapped
    if mark is not None:
        setattr(wrapper, (<tuple?>mark)[0], (<tuple>mark)[1])
    if not is_function:  # a plain function has none
        value = getattr(wrapped, "__self__", _MISSING)
        if value is not _MISSING:
            wrapper.__self__ = value


cdef class _Wrapper:
    # What the function's attributes were when it was last bound, ready to be copied; and where they
    # were, to see whether they still are: `template` keeps them from being anything else. With the
    # GIL, and for plain functions.
    cdef dict template
    cdef PyObject* seen[_MOST_ASSIGNMENTS]

    cdef object bind(self, object wrapped, object parent):
        cdef Py_ssize_t index
        cdef dict namespace
        bound = _partial(self.__call__, parent)
        if not (_reads_fields and _is_bare(wrapped)):
            namespace = self.namespace_of(wrapped)
        elif self.is_current(wrapped):
            namespace = self.template.copy()
        else:
            namespace = self.namespace_of(wrapped)
            old = self.template  # held, because its end may run anybody's code
            self.template = namespace.copy()
            for index in range(len(_ASSIGNMENTS)):
                self.seen[index] = <PyObject*>namespace[_ASSIGNMENTS[index]]
        PyObject_GenericSetDict(bound, namespace, NULL)
        return bound

    cdef bint is_current(self, object wrapped) except -1:
        cdef Py_ssize_t index
        if self.template is None or self.template["__wrapped__"] is not wrapped:
            return False
        for index in range(len(_ASSIGNMENTS)):
            value = _assignment(wrapped, index, True)
            if self.seen[index] is not <PyObject*>value:
                return False
        return True

    cdef dict namespace_of(self, object wrapped):
        cdef Py_ssize_t index
        cdef bint is_function = _reads_fields and PyFunction_Check(wrapped)
        cdef dict namespace = {}
        for index in range(len(_ASSIGNMENTS)):
            value = _assignment(wrapped, index, is_function)
            if value is not _MISSING:
                namespace[_ASSIGNMENTS[index]] = value
        if not _is_bare(wrapped):
            _adopt_names(namespace, _partial, wrapped)
        namespace["__wrapped__"] = wrapped
        return namespace

    def __getstate__(self):
        # Or copying is refused, because there is a C structure.
        if hasattr(object, "__getstate__"):
            return object.__getstate__(self)
        return self.__dict__


# As a slot of a C class ``__get__`` costs a third of what it costs as a Python method.

cdef class SyncWrapper(_Wrapper):
    """Binds to an instance, as a functools.partial that looks like ``self.func`` does by then.

    Through the class it is itself, as a function is.
    """

    def __get__(self, parent, objtype):
        return self if parent is None else self.bind(self.func, parent)


cdef class AsyncWrapper(_Wrapper):
    """Binds to an instance, as a functools.partial that looks like ``self.awaitable`` by then.

    Through the class it is itself, as a function is.
    """

    def __get__(self, parent, objtype):
        return self if parent is None else self.bind(self.awaitable, parent)
