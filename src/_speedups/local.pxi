# Where a `Local` keeps its attributes.
#
# ``__getattribute__`` of a cdef class is a slot, called straight from the interpreter's attribute
# access, where ``__getattr__`` would be asked only after an AttributeError has been made and thrown
# away. So it looks among the user's attributes first, except for names with two underscores, which
# Python itself asks for: there the type comes first, as everywhere.

cdef extern from "Python.h":
    int PyContextVar_Get(object variable, PyObject* default, PyObject** value) except -1
    object PyContextVar_Set(object variable, object value)
    PyObject* PyDict_GetItemWithError(dict of, object key) except? NULL
    object PyObject_GenericGetAttr(object of, object name)
    PyObject* _PyType_Lookup(PyTypeObject* type, object name)
    Py_UCS4 PyUnicode_READ_CHAR(object text, Py_ssize_t index)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)


@cython.final
@cython.freelist(32)
cdef class _Attributes:
    # A Local's attributes at one home; immutable.
    cdef object home
    cdef dict data


cdef inline bint _belongs_to_python(object key):
    return (
        isinstance(key, str)
        and PyUnicode_GET_LENGTH(key) > 1
        and PyUnicode_READ_CHAR(key, 0) == c"_"
        and PyUnicode_READ_CHAR(key, 1) == c"_"
    )


cdef extern from *:
    """
    /* In C: programs ask for what is not there, by getattr and hasattr, as often as for what is. */
    static int asgibridge_missing(PyObject *local, PyObject *key) {
        const char *name = strrchr(Py_TYPE(local)->tp_name, '.');
        name = name ? name + 1 : Py_TYPE(local)->tp_name;
        while (*name == '_') name++;
        PyErr_Format(PyExc_AttributeError, "'%.200s' object has no attribute %R", name, key);
        return -1;
    }
    """
    int asgibridge_missing(object local, object key) except -1


cdef inline bint _has_type(local, key):
    return isinstance(key, str) and _PyType_Lookup(Py_TYPE(local), key) is not NULL


cdef inline _Attributes _current(object variable):
    # What is set in the current context, at whatever home, or None.
    cdef PyObject* found = NULL
    PyContextVar_Get(variable, NULL, &found)
    current = <_Attributes>found
    Py_XDECREF(found)
    return current


cdef inline _Attributes _changeable(object variable):
    cdef _Attributes current = _current(variable)
    cdef _Attributes changed = _Attributes.__new__(_Attributes)
    changed.home = _this_thread().home
    if current is not None and current.home is changed.home:
        changed.data = current.data.copy()
    else:
        changed.data = {}
    return changed


cdef class ContextStorage:
    """Attributes that follow the chain of calls, wherever it goes."""

    cdef object __weakref__
    cdef object variable

    def __cinit__(self):
        self.variable = ContextVar("asgibridge.local", default=None)

    def __init__(self):
        pass  # refuses arguments

    def __getattribute__(self, key):
        cdef _Attributes current
        cdef PyObject* value
        if _belongs_to_python(key) and _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        current = _current(self.variable)
        if current is not None and current.home is _this_thread().home:
            # Borrowed from a dict that `current` keeps and nobody changes.
            value = PyDict_GetItemWithError(current.data, key)
            if value is not NULL:
                return <object>value
        if _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        asgibridge_missing(self, key)

    def __setattr__(self, key, value):
        cdef _Attributes changed
        if key == "_data":
            raise AttributeError("Cannot set attribute '_data' on Local")
        changed = _changeable(self.variable)
        changed.data[key] = value
        PyContextVar_Set(self.variable, changed)

    def __delattr__(self, key):
        cdef _Attributes changed = _changeable(self.variable)
        if key not in changed.data:
            asgibridge_missing(self, key)
        del changed.data[key]
        PyContextVar_Set(self.variable, changed)


def peek(local, key, default):
    """``getattr(local, key, default)``; of a `ContextStorage`, without making an AttributeError.

    That costs a microsecond, and on most hops there is nothing to find.
    """
    cdef _Attributes current
    cdef PyObject* value
    if not isinstance(local, ContextStorage):
        return getattr(local, key, default)
    current = _current((<ContextStorage>local).variable)
    if current is None or current.home is not _this_thread().home:
        return default
    value = PyDict_GetItemWithError(current.data, key)
    return default if value is NULL else <object>value


class _ThreadNamespace(threading.local):
    # What one thread sees of a ThreadStorage. A `threading.local`, so that it ends when those end.
    def __init__(self):
        self.data = {}
        self.variable = ContextVar("asgibridge.local")


cdef class ThreadStorage:
    """Attributes of one thread, and in a thread with an event loop, of one context."""

    cdef object __weakref__
    cdef object namespace

    def __cinit__(self):
        self.namespace = _ThreadNamespace()

    def __init__(self):
        pass  # refuses arguments

    def __getattribute__(self, key):
        cdef PyObject* value
        cdef dict data
        if _belongs_to_python(key) and _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        if asyncio._get_running_loop() is None:
            data = self.namespace.data
        else:
            data = self.namespace.variable.get(None)
        if data is not None:
            value = PyDict_GetItemWithError(data, key)
            if value is not NULL:
                return <object>value
        if _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        asgibridge_missing(self, key)

    def __setattr__(self, key, value):
        if asyncio._get_running_loop() is None:
            self.namespace.data[key] = value
        else:
            variable = self.namespace.variable
            variable.set({**variable.get({}), key: value})

    def __delattr__(self, key):
        if asyncio._get_running_loop() is None:
            if self.namespace.data.pop(key, _MISSING) is _MISSING:
                asgibridge_missing(self, key)
        else:
            variable = self.namespace.variable
            data = variable.get({}).copy()
            if data.pop(key, _MISSING) is _MISSING:
                asgibridge_missing(self, key)
            variable.set(data)
