/*
 * nft: starts the nftables program that lies in nft.d beside this executable,
 * with the dynamic loader and the libraries that lie there too. Nothing of the
 * host is used, so it runs on hosts with musl, an older glibc or no libraries.
 */
#include <asm/errno.h>
#include <linux/fcntl.h>

#include "../sys.h"

#define PATH_MAX 4096

static char self[PATH_MAX], loader[PATH_MAX + 32], dir[PATH_MAX + 32], program[PATH_MAX + 32];

static unsigned long length(const char *s)
{
	unsigned long n = 0;

	while (s[n])
		n++;
	return n;
}

static void join(char *out, const char *a, const char *b)
{
	while (*a)
		*out++ = *a++;
	while (*b)
		*out++ = *b++;
	*out = 0;
}

__attribute__((noreturn)) static void fail(const char *why)
{
	sys4(__NR_write, 2, (long)"nft: ", 5, 0);
	sys4(__NR_write, 2, (long)why, length(why), 0);
	sys4(__NR_write, 2, (long)"\n", 1, 0);
	quit(127);
}

void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1), **envp = argv + argc + 1;
	/* The arguments after argv[0] are moved; two pages hold what skiff passes. */
	static char *args[1024];
	long n, i, slash = 0;

	n = sys4(__NR_readlinkat, AT_FDCWD, (long)"/proc/self/exe", (long)self, sizeof(self) - 1);
	if (n <= 0)
		fail("cannot read /proc/self/exe");
	for (i = 0; i < n; i++)
		if (self[i] == '/')
			slash = i;
	self[slash] = 0;
	if (argc > (long)(sizeof(args) / sizeof(args[0])) - 8)
		fail("too many arguments");

	join(dir, self, "/nft.d");
	join(loader, dir, "/ld.so");
	join(program, dir, "/nft");
	i = 0;
	args[i++] = loader;
	args[i++] = "--inhibit-cache";
	args[i++] = "--library-path";
	args[i++] = dir;
	args[i++] = "--argv0";
	args[i++] = "nft";
	args[i++] = program;
	for (n = 1; n < argc; n++)
		args[i++] = argv[n];
	args[i] = 0;
	n = sys4(__NR_execve, (long)loader, (long)args, (long)envp, 0);
	fail(n == -ENOENT ? "nft.d/ld.so is missing beside it" : "cannot execute nft.d/ld.so");
}
