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
# **Who owns what.** `asgibridge_core` is the worker's, made and freed by it. A waker changes it, under
# the GIL, while the worker is parked and before it unlocks that, so it needs no lock.

cdef extern from *:
    """
    /* tests/test_wake_ways.py builds the other one here, too. */
    #ifndef ASGIBRIDGE_STAYS_ON_CORE
      #if defined(__linux__) && !defined(Py_GIL_DISABLED)
        #define ASGIBRIDGE_STAYS_ON_CORE 1
      #else
        #define ASGIBRIDGE_STAYS_ON_CORE 0
      #endif
    #endif
    #if ASGIBRIDGE_STAYS_ON_CORE
      #include <sched.h>
      #include <sys/syscall.h>
      #include <unistd.h>
      typedef struct {
          pid_t thread;
          unsigned long generation;  /* of the process: in a forked child that thread is another's */
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

      /* On the worker's thread. NULL if there is no memory: then it is never brought. */
      static asgibridge_core *asgibridge_core_new(void) {
          asgibridge_core *core = PyMem_RawMalloc(sizeof(asgibridge_core));
          if (core == NULL) return NULL;
          core->thread = (pid_t)syscall(SYS_gettid);
          core->generation = asgibridge_core_generation;
          core->narrowed = -1;
          return core;
      }

      /* Whether it begins here. */
      static int asgibridge_core_bring(asgibridge_core *core) {
          cpu_set_t here;
          int cpu;
          if (core == NULL || core->generation != asgibridge_core_generation) return 0;
          cpu = sched_getcpu();
          if (cpu < 0 || cpu >= CPU_SETSIZE) return 0;
          CPU_ZERO(&core->processors);
          if (sched_getaffinity(core->thread, sizeof core->processors, &core->processors) != 0 ||
              !CPU_ISSET(cpu, &core->processors) || CPU_COUNT(&core->processors) == 1 ||
              asgibridge_policy(core->thread) != SCHED_OTHER) return 0;
          CPU_ZERO(&here);
          CPU_SET(cpu, &here);
          if (sched_setaffinity(core->thread, sizeof here, &here) != 0) return 0;
          core->narrowed = cpu;
          core->has_policy = asgibridge_set_policy(core->thread, SCHED_BATCH);
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
      #define asgibridge_core_new() NULL
      #define asgibridge_core_bring(core) ((void)(core), 0)
      #define asgibridge_core_leave(core) ((void)(core))
    #endif
    """
    ctypedef struct asgibridge_core:
        pass
    unsigned long asgibridge_core_generation
    asgibridge_core* asgibridge_core_new()
    bint asgibridge_core_bring(asgibridge_core* core)
    void asgibridge_core_leave(asgibridge_core* core)
