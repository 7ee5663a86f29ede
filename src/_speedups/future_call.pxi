# What ``submit`` puts into an inbox: a call, and the Future that its outcome goes to.

@cython.final
cdef class FutureCall:
    """A call of ``function(*args, **kwargs)`` whose outcome goes to ``future``.

    Of the thread that runs it or gives it up, whichever took it out of the inbox.
    """

    cdef object future
    cdef tuple call
    cdef object value
    cdef object error

    def __cinit__(self, future, function, args, kwargs):
        self.future = future
        self.call = (function, args, kwargs)

    def run(self):
        """Call the function, unless the future was cancelled."""
        cdef tuple call = self.call
        self.call = None
        if self.future is None or call is None:
            return
        if not self.future.set_running_or_notify_cancel():
            self.future = None
            return
        function, args, kwargs = call
        call = None
        try:
            self.value = function(*args, **kwargs)
        except BaseException as error:
            self.error = error

    def deliver(self):
        """Tell the future."""
        future, value, error = self.future, self.value, self.error
        self.future = self.value = self.error = None
        if future is None:
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def cancel(self):
        """Give it up, in place of `run`."""
        future, call = self.future, self.call
        self.future = self.call = None
        if future is not None:
            future.cancel()
            future.set_running_or_notify_cancel()

    def fail(self, error):
        """Have the future raise ``error``, in place of `run`."""
        self.call = None
        if self.future is not None and self.future.set_running_or_notify_cancel():
            self.error = error
            self.deliver()
