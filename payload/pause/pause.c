/*
 * pause: the process that holds the namespaces of a pod.
 *
 * It is PID 1 of the pod when containers share a PID namespace, so it reaps
 * what is orphaned onto it. SIGTERM and SIGINT end it at once; PID 1 receives
 * them only because it blocks and waits for them.
 */
#include <asm/signal.h>
#include <linux/wait.h>

#include "../sys.h"

#define BIT(signo) (1UL << ((signo)-1))

void start(long *stack)
{
	unsigned long set = BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGCHLD);

	(void)stack;
	sys4(__NR_rt_sigprocmask, SIG_BLOCK, (long)&set, 0, sizeof(set));
	for (;;) {
		long signo = sys4(__NR_rt_sigtimedwait, (long)&set, 0, 0, sizeof(set));

		if (signo == SIGTERM || signo == SIGINT)
			quit(0);
		/* One SIGCHLD may stand for several children. */
		while (sys4(__NR_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}
