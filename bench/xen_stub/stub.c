/*
 * What xenstored needs of the Xen libraries, without Xen: one shared object that stands in for
 * libxenevtchn.so.1, libxengnttab.so.1 and libxenctrl.so.4.17, and that shows files instead of
 * /proc/xen/xsd_port and /proc/xen/xsd_kva. Everything lives in the folder XEN_STUB_DIR:
 *
 *   event       a FIFO: a u32 written into it is an event channel port that fires
 *   ring.N      the page that domain N shares with xenstored, made when it is mapped
 *   dom.N       domain N exists; its first character is '-' (runs), 's' (has shut down), 'd' (is dying)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define VIRQ_PORT 1

static int event_fd = -1;

static const char *in_folder(char *into, size_t size, const char *name, unsigned number, int numbered)
{
	const char *folder = getenv("XEN_STUB_DIR");
	if (folder == NULL)
		folder = ".";
	if (numbered)
		snprintf(into, size, "%s/%s.%u", folder, name, number);
	else
		snprintf(into, size, "%s/%s", folder, name);
	return into;
}

static int ring_file(unsigned domid)
{
	char path[4096];
	int fd = syscall(257 /* openat */, AT_FDCWD,
		in_folder(path, sizeof(path), "ring", domid, 1), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0 && ftruncate(fd, PAGE) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The files of /proc/xen. */

static int port_file(void)
{
	int fd = memfd_create("xsd_port", MFD_CLOEXEC);
	if (fd >= 0 && (write(fd, "2\n", 2) != 2 || lseek(fd, 0, SEEK_SET) != 0))
		return -1;
	return fd;
}

int open(const char *path, int flags, ...)
{
	va_list list;
	va_start(list, flags);
	unsigned mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(list, unsigned) : 0;
	va_end(list);
	if (strcmp(path, "/proc/xen/xsd_port") == 0)
		return port_file();
	if (strcmp(path, "/proc/xen/xsd_kva") == 0)
		return ring_file(0);
	return syscall(257, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int __open_2(const char *path, int flags) { return open(path, flags); }

/* libxenevtchn. */

void *xenevtchn_open(void *logger, unsigned flags)
{
	char path[4096];
	event_fd = syscall(257, AT_FDCWD, in_folder(path, sizeof(path), "event", 0, 0), O_RDWR, 0);
	return event_fd < 0 ? NULL : &event_fd;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
	event_fd = fd;
	return &event_fd;
}

int xenevtchn_close(void *handle) { return 0; }
int xenevtchn_fd(void *handle) { return event_fd; }
int xenevtchn_notify(void *handle, uint32_t port) { return 0; }
int xenevtchn_unbind(void *handle, uint32_t port) { return 0; }
int xenevtchn_unmask(void *handle, uint32_t port) { return 0; }
int xenevtchn_bind_virq(void *handle, unsigned virq) { return VIRQ_PORT; }

int xenevtchn_bind_interdomain(void *handle, uint32_t domid, uint32_t port)
{
	return 16 + (int)(domid & 0xffff);
}

int xenevtchn_pending(void *handle)
{
	uint32_t port;
	ssize_t got = read(event_fd, &port, sizeof(port));
	return got == sizeof(port) ? (int)port : -1;
}

/* libxengnttab. */

void *xengnttab_open(void *logger, unsigned flags) { return &event_fd; }
int xengnttab_close(void *handle) { return 0; }
int xengnttab_set_max_grants(void *handle, uint32_t count) { return 0; }

void *xengnttab_map_grant_ref(void *handle, uint32_t domid, uint32_t ref, int prot)
{
	int fd = ring_file(domid);
	if (fd < 0)
		return NULL;
	void *page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(void *handle, void *page, uint32_t count)
{
	return munmap(page, (size_t)count * PAGE);
}

/* libxenctrl: the beginning of xc_dominfo_t of 4.17, the rest of which xenstored does not look at. */

struct dominfo {
	uint32_t domid;
	uint32_t ssidref;
	unsigned dying : 1, crashed : 1, shutdown : 1;
};

void *xc_interface_open(void *logger, void *other, unsigned flags) { return &event_fd; }
int xc_interface_close(void *handle) { return 0; }

int xc_domain_getinfo(void *handle, uint32_t first, unsigned count, struct dominfo *info)
{
	char path[4096], state = '-';
	if (first != 0) {
		int fd = open(in_folder(path, sizeof(path), "dom", first, 1), O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return 0;
		if (read(fd, &state, 1) < 0)
			state = '-';
		close(fd);
	}
	memset(info, 0, sizeof(*info));
	info->domid = first;
	info->shutdown = state == 's';
	info->dying = state == 'd';
	return 1;
}
