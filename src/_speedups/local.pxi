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


cdef extern from *:
    """
    /* What a Local has at one home is a tuple. **Few** attributes are (home, name, value, name,
       value, ...), all names interned: a write makes this one object (which the interpreter
       recycles) where a dict takes three. **Many**, and those whose names are not plain strings,
       are (home, dict). Neither is changed, because contexts share it. */
    #define ASGIBRIDGE_FEW (1 + 2 * 8)

    /* Where the name is, -1 if it is not there, or -2 if it takes more than identity to tell. */
    static Py_ssize_t asgibridge_few_index(PyObject *few, PyObject *name) {
        Py_ssize_t n = PyTuple_GET_SIZE(few);
        for (Py_ssize_t i = 1; i < n; i += 2)
            if (PyTuple_GET_ITEM(few, i) == name)
                return i;
        return PyUnicode_CheckExact(name) && PyUnicode_CHECK_INTERNED(name) ? -1 : -2;
    }
    /* A copy, with the value at the index, or at the end if that is -1. */
    static PyObject *asgibridge_few_with(PyObject *few, Py_ssize_t index, PyObject *name,
                                         PyObject *value) {
        Py_ssize_t n = PyTuple_GET_SIZE(few);
        PyObject *with = PyTuple_New(index < 0 ? n + 2 : n);
        if (with == NULL)
            return NULL;
        for (Py_ssize_t i = 0; i < n; i++) {
            PyObject *item = i == index + 1 && index >= 0 ? value : PyTuple_GET_ITEM(few, i);
            Py_INCREF(item);
            PyTuple_SET_ITEM(with, i, item);
        }
        if (index < 0) {
            Py_INCREF(name);
            PyTuple_SET_ITEM(with, n, name);
            Py_INCREF(value);
            PyTuple_SET_ITEM(with, n + 1, value);
        }
        return with;
    }
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
    Py_ssize_t ASGIBRIDGE_FEW
    Py_ssize_t asgibridge_few_index(object few, object name)
    object asgibridge_few_with(object few, Py_ssize_t index, object name, object value)
    Py_ssize_t PyTuple_GET_SIZE(object of)
    PyObject* PyTuple_GET_ITEM(object of, Py_ssize_t index)
    bint PyUnicode_CheckExact(object of)
    bint PyUnicode_CHECK_INTERNED(object of)


cdef inline bint _belongs_to_python(object key):
    return (
        isinstance(key, str)
        and PyUnicode_GET_LENGTH(key) > 1
        and PyUnicode_READ_CHAR(key, 0) == c"_"
        and PyUnicode_READ_CHAR(key, 1) == c"_"
    )


cdef inline bint _has_type(local, key):
    return isinstance(key, str) and _PyType_Lookup(Py_TYPE(local), key) is not NULL


cdef object _home_in_context(Home home):
    # The one that it stands for.
    cdef PyObject* found = NULL
    PyContextVar_Get(home.variable, NULL, &found)
    current = <object>found
    Py_XDECREF(found)
    return home if current is None else <object>PyTuple_GET_ITEM(current, 0)


cdef object _current_of_another(object current, _Thread thread):
    # `current` if it was set at the home that the thread's stands for, or None.
    home = _home_of(thread)
    return current if <object>PyTuple_GET_ITEM(current, 0) is home else None


cdef inline object _current(object variable):
    # What is set in the current context at this thread's home, or None.
    cdef PyObject* found = NULL
    cdef void* thread
    PyContextVar_Get(variable, NULL, &found)
    current = <object>found
    Py_XDECREF(found)
    if current is None:
        return None
    thread = PyThread_tss_get(&_thread_key)
    if thread is NULL:
        return None  # it has no home yet: then nothing was set at it
    if PyTuple_GET_ITEM(current, 0) is <PyObject*>(<_Thread>thread).home:
        return current
    return _current_of_another(current, <_Thread>thread)


cdef inline bint _is_few(object current):
    return PyTuple_GET_SIZE(current) != 2


cdef Py_ssize_t _index(object few, object name) except -2:
    cdef Py_ssize_t index = asgibridge_few_index(few, name)
    if index != -2:
        return index
    # Not interned, or a subclass's, which may compare as it likes: as a dict does it.
    return {each: 2 * number + 1 for number, each in enumerate(few[1::2])}.get(name, -1)


cdef object _value(object current, object name):
    # Or _MISSING.
    cdef Py_ssize_t index
    cdef PyObject* value
    if current is None:
        return _MISSING
    if _is_few(current):
        index = _index(current, name)
        return _MISSING if index < 0 else <object>PyTuple_GET_ITEM(current, index + 1)
    # Borrowed from a dict that `current` keeps and nobody changes.
    value = PyDict_GetItemWithError(<object>PyTuple_GET_ITEM(current, 1), name)
    return _MISSING if value is NULL else <object>value


cdef inline object _interned(object name):
    return name if PyUnicode_CHECK_INTERNED(name) else sys.intern(name)


cdef dict _copied(object current):
    # As a dict of its own.
    if current is None:
        return {}
    if _is_few(current):
        return dict(zip(current[1::2], current[2::2]))
    return (<dict>current[1]).copy()


cdef object _with(object current, object name, object value):
    cdef Py_ssize_t index
    cdef dict data
    if PyUnicode_CheckExact(name):
        if current is None:
            return (_home_of(_this_thread()), _interned(name), value)
        if _is_few(current):
            index = _index(current, name)
            if index >= 0 or PyTuple_GET_SIZE(current) < ASGIBRIDGE_FEW:
                return asgibridge_few_with(current, index, _interned(name), value)
    data = _copied(current)
    data[name] = value
    return (_home_of(_this_thread()), data)


cdef class ContextStorage:
    """Attributes that follow the chain of calls, wherever it goes."""

    cdef object __weakref__
    cdef object variable

    def __cinit__(self):
        self.variable = ContextVar("asgibridge.local", default=None)

    def __init__(self):
        pass  # refuses arguments

    def __getattribute__(self, key):
        if _belongs_to_python(key) and _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        value = _value(_current(self.variable), key)
        if value is not _MISSING:
            return value
        if _has_type(self, key):
            return PyObject_GenericGetAttr(self, key)
        asgibridge_missing(self, key)

    def __setattr__(self, key, value):
        cdef Py_ssize_t index
        current = _current(self.variable)
        if current is not None and _is_few(current):
            index = asgibridge_few_index(current, key)
            if index > 0:  # the usual case, and nothing to refuse
                current = asgibridge_few_with(current, index, key, value)
                PyContextVar_Set(self.variable, current)
                return
        if key == "_data":
            raise AttributeError("Cannot set attribute '_data' on Local")
        PyContextVar_Set(self.variable, _with(current, key, value))

    def __delattr__(self, key):
        cdef dict data = _copied(_current(self.variable))
        if key not in data:
            asgibridge_missing(self, key)
        del data[key]
        current = None
        for name, value in data.items():
            current = _with(current, name, value)
        PyContextVar_Set(self.variable, current)


def peek(local, key, default):
    """``getattr(local, key, default)``; of a `ContextStorage`, without making an AttributeError.

    That costs a microsecond, and on most hops there is nothing to find.
    """
    if not isinstance(local, ContextStorage):
        return getattr(local, key, default)
    value = _value(_current((<ContextStorage>local).variable), key)
    return default if value is _MISSING else value


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
