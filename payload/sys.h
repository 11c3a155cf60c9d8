/*
 * The little of Linux that our freestanding helper executables use: system
 * calls and an entry point, without a C library. An executable of one page
 * costs a pod nothing, which a statically linked C library does not.
 */
#ifndef SKIFF_SYS_H
#define SKIFF_SYS_H

#ifndef __x86_64__
#error "payload/sys.h knows the system call convention of x86-64 only"
#endif

#include <asm/unistd.h>

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

/* The kernel enters with argc, argv, NULL, envp, NULL at the stack pointer. */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	mov %rsp, %rdi\n"
	"	and $-16, %rsp\n"
	"	call start\n"
	"	hlt\n");

__attribute__((noreturn, used)) void start(long *stack);

__attribute__((noreturn)) static inline void quit(int code)
{
	for (;;)
		sys4(__NR_exit_group, code, 0, 0, 0);
}

#endif
