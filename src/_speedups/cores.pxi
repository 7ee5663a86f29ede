# Where a woken worker begins, and when.
#
# The scheduler gives a thread that is woken a core that idles. But a worker can do nothing before
# its waker lets go of the GIL, and that other core has to be woken up first: 35 to 50 us on a virtual
# machine, where a switch to the next thread of the same core takes 2. Or the woken thread takes its
# waker's core from it, only to find the GIL taken, which are two switches more.
#
# So the waker *brings* the worker to its own core: it narrows the worker's set of processors to that,
# and makes it one of those that don't preempt others (SCHED_BATCH). Then it begins when its waker
# sleeps, for whatever reason: the scheduler knows. (If that computes without the GIL, when its time
# slice is over, some milliseconds.) The worker has its own set and policy back as soon as it has the
# GIL, before it runs anything: no call sees the others, and nothing inherits them.
#
# What is put back is what was found; what somebody else has changed meanwhile (`taskset -p`, a
# container's limits) stays. A worker that may not run here, or nowhere else, or is not of the usual
# policy is let alone, and so is every one where the system refuses.
#
# It takes eight short system calls, 1.7 us together. Under load (20 requests at once to a Django
# site, two cores) a site serves 1.7 times as much for it, and for how loops hear of results
# (wakeups.pxi); 1.4 times with a query in SQLite. Calls that compute for long without the GIL pay:
# where every seventh call hashes for 5 ms, 7 % are lost.
#
# Only on Linux, where that was measured, and only with a GIL: without one a worker is better off on
# a core of its own.
#
# **Where it may not be asked for.** A sandbox's filter may answer such a system call with an error,
# which ends all this for the process, or kill who makes it (systemd's `SystemCallFilter=~@resources`,
# without an errno). So if there is a filter the first worker has them made by a process that borrows
# our memory, as `vfork` does, and sees whether that lives. ASGIBRIDGE_PLACEMENT=scheduler asks nothing.
#
# **Who owns what.** `asgibridge_core` is the worker's, made and freed by it. A waker changes it, under
# the GIL, while the worker is parked and before it unlocks that, so it needs no lock.

cdef extern from *:
    """
    /* tests/kernel/test_wake_ways.py builds the other one here, too. */
    #ifndef ASGIBRIDGE_STAYS_ON_CORE
      #if defined(__linux__) && !defined(Py_GIL_DISABLED)
        #define ASGIBRIDGE_STAYS_ON_CORE 1
      #else
        #define ASGIBRIDGE_STAYS_ON_CORE 0
      #endif
    #endif
    #if ASGIBRIDGE_STAYS_ON_CORE
      #include <errno.h>
      #include <fcntl.h>
      #include <sched.h>
      #include <signal.h>
      #include <sys/syscall.h>
      #include <sys/wait.h>
      #include <unistd.h>
      typedef struct {
          pid_t thread;
          unsigned long generation;  /* of the process: in a forked child that thread is another's */
          int is_confined;           /* it began with one processor, so it is never brought */
          int narrowed;              /* to this core, or -1 */
          int has_policy;            /* that it was given */
          cpu_set_t processors;      /* its own, while narrowed */
      } asgibridge_core;

      static unsigned long asgibridge_core_generation = 0;

      /* musl's functions of these names refuse. */
      static long asgibridge_policy(pid_t thread) {
          return syscall(SYS_sched_getscheduler, thread);
      }
      static int asgibridge_set_policy(pid_t thread, int policy) {
          struct sched_param none;
          memset(&none, 0, sizeof none);
          return syscall(SYS_sched_setscheduler, thread, policy, &none) == 0;
      }

      /* What all of it comes down to. */
      static int asgibridge_cores_try(void *processors) {
          return sched_getaffinity(0, sizeof(cpu_set_t), processors) != 0 ||
                 sched_setaffinity(0, sizeof(cpu_set_t), processors) != 0 ||
                 asgibridge_policy(0) < 0 || !asgibridge_set_policy(0, SCHED_BATCH);
      }

      static int asgibridge_cores_filtered(void) {
          char text[8192], *found;
          int file = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
          ssize_t size = file < 0 ? -1 : read(file, text, sizeof text - 1);
          if (file >= 0) close(file);
          if (size <= 0) return 1;
          text[size] = 0;
          found = strstr(text, "\\nSeccomp:");
          return found != NULL && strstr(found, "Seccomp:\\t0\\n") != found + 1;
      }

      /* No signal tells of the end of such a child, and only who asks for a __WCLONE sees it. */
      static int asgibridge_cores_survives(void) {
          enum { SIZE = 65536 };
          cpu_set_t processors;
          sigset_t all, before;
          int status = -1;
          pid_t child, ended;
          char *stack = PyMem_RawMalloc(SIZE);
          if (stack == NULL) return 0;
          CPU_ZERO(&processors);
          sigfillset(&all);
          (void)pthread_sigmask(SIG_SETMASK, &all, &before);  /* no handler runs there */
          child = clone(asgibridge_cores_try, stack + (SIZE - 64) / 64 * 64, CLONE_VM | CLONE_VFORK,
                        &processors);
          (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
          do {
              ended = child < 0 ? -1 : waitpid(child, &status, __WCLONE);
          } while (ended < 0 && child >= 0 && errno == EINTR);
          PyMem_RawFree(stack);
          return ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
      }

      static int asgibridge_cores_state = -1;  /* may be asked for: not known yet, no, yes */

      static int asgibridge_cores_allowed(void) {
          if (asgibridge_cores_state < 0)
              asgibridge_cores_state = !asgibridge_cores_filtered() || asgibridge_cores_survives();
          return asgibridge_cores_state;
      }

      /* After one of them has failed: not if it was but for that thread, or that processor. */
      static void asgibridge_cores_judge(void) {
          if (errno != ESRCH && errno != EINVAL) asgibridge_cores_state = 0;
      }

      /* On the worker's thread. NULL if it is never brought. */
      static asgibridge_core *asgibridge_core_new(void) {
          asgibridge_core *core;
          if (!asgibridge_cores_allowed()) return NULL;
          core = PyMem_RawMalloc(sizeof(asgibridge_core));
          if (core == NULL) return NULL;
          core->thread = (pid_t)syscall(SYS_gettid);
          core->generation = asgibridge_core_generation;
          core->narrowed = -1;
          CPU_ZERO(&core->processors);
          core->is_confined = sched_getaffinity(0, sizeof core->processors, &core->processors) != 0 ||
                              CPU_COUNT(&core->processors) == 1;
          return core;
      }

      /* Whether it begins here. */
      static int asgibridge_core_bring(asgibridge_core *core) {
          cpu_set_t here;
          int cpu;
          if (core == NULL || core->is_confined || asgibridge_cores_state != 1 ||
              core->generation != asgibridge_core_generation) return 0;
          cpu = sched_getcpu();
          if (cpu < 0 || cpu >= CPU_SETSIZE) return 0;
          CPU_ZERO(&core->processors);
          if (sched_getaffinity(core->thread, sizeof core->processors, &core->processors) != 0 ||
              !CPU_ISSET(cpu, &core->processors) || CPU_COUNT(&core->processors) == 1 ||
              asgibridge_policy(core->thread) != SCHED_OTHER) return 0;
          CPU_ZERO(&here);
          CPU_SET(cpu, &here);
          if (sched_setaffinity(core->thread, sizeof here, &here) != 0) {
              asgibridge_cores_judge();
              return 0;
          }
          core->narrowed = cpu;
          core->has_policy = asgibridge_set_policy(core->thread, SCHED_BATCH);
          if (!core->has_policy) asgibridge_cores_judge();
          return 1;
      }

      /* On the worker's thread. */
      static void asgibridge_core_leave(asgibridge_core *core) {
          cpu_set_t now;
          int cpu;
          if (core == NULL || core->narrowed < 0) return;
          cpu = core->narrowed;
          core->narrowed = -1;
          if (core->has_policy && asgibridge_policy(0) == SCHED_BATCH)
              (void)asgibridge_set_policy(0, SCHED_OTHER);
          CPU_ZERO(&now);
          if (sched_getaffinity(0, sizeof now, &now) != 0 || CPU_COUNT(&now) != 1 ||
              !CPU_ISSET(cpu, &now)) return;
          if (sched_setaffinity(0, sizeof core->processors, &core->processors) != 0) {
              /* None of those is left to this process: any that is. */
              memset(&now, 0xff, sizeof now);
              (void)sched_setaffinity(0, sizeof now, &now);
          }
      }
    #else
      typedef int asgibridge_core;
      static unsigned long asgibridge_core_generation = 0;
      static int asgibridge_cores_state = 0;
      #define asgibridge_cores_allowed() asgibridge_cores_state
      #define asgibridge_core_new() NULL
      #define asgibridge_core_bring(core) ((void)(core), 0)
      #define asgibridge_core_leave(core) ((void)(core))
    #endif
    """
    ctypedef struct asgibridge_core:
        pass
    unsigned long asgibridge_core_generation
    int asgibridge_cores_state
    bint asgibridge_cores_allowed()
    asgibridge_core* asgibridge_core_new()
    bint asgibridge_core_bring(asgibridge_core* core)
    void asgibridge_core_leave(asgibridge_core* core)

if os.environ.get("ASGIBRIDGE_PLACEMENT") == "scheduler":
    asgibridge_cores_state = 0


def placement():
    """Who says on which core a worker begins: "waker", on its own, or "scheduler"."""
    return "waker" if asgibridge_cores_allowed() else "scheduler"
