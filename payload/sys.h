/*
 * The little of Linux that our freestanding helper executables use: system
 * calls and an entry point, without a C library. An executable of one page
 * costs a pod nothing, which a statically linked C library does not.
 *
 * Only calls that every architecture has: arm64 came late and lacks those
 * that a newer one made superfluous, as readlink.
 */
#ifndef SKIFF_SYS_H
#define SKIFF_SYS_H

#include <asm/unistd.h>

/* The kernel enters with argc, argv, NULL, envp, NULL at the stack pointer. */
#if defined(__x86_64__)

static inline long sys4(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n"
	"	hlt\n");

#elif defined(__aarch64__)

static inline long sys4(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory");
	return x0;
}

/* The stack pointer is aligned already: the hardware insists. */
__asm__(".globl _start\n"
	"_start:\n"
	"	mov x29, xzr\n"
	"	mov x30, xzr\n"
	"	mov x0, sp\n"
	"	bl start\n"
	"	brk #0\n");

#else
#error "payload/sys.h knows the system call conventions of x86-64 and arm64 only"
#endif

__attribute__((noreturn, used)) void start(long *stack);

__attribute__((noreturn)) static inline void quit(int code)
{
	for (;;)
		sys4(__NR_exit_group, code, 0, 0, 0);
}

#endif
