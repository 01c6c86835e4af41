"""The program of a hostile model: tries everything, and says what worked. Not imported: its text runs inside."""

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import threading

told: dict = told  # type: ignore[name-defined,used-before-def]  # noqa: F821
secret, outside, victim = told["secret"], told["outside"], told["victim"]
marker = outside + "/marker"
model = told["readable"][0] + "/model"  # which it may read
libc = ctypes.CDLL(None, use_errno=True)
AT_CWD, OPEN, SIGCHLD = -100, 2, 17


def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def forked(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def link_and_read():
    os.link(secret, "link")
    read("link")


def follow_a_link():
    os.symlink(secret, "symlink")
    read("symlink")


def move_out():
    with open("inside", "w") as file:
        file.write("x")
    os.rename("inside", marker)


def truncate_by_reading():
    os.close(os.open(told["victim_file"], os.O_RDONLY | os.O_TRUNC))


def run_in_a_thread(attempt):
    def wrapped():
        failures = []

        def body():
            try:
                attempt()
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return wrapped


def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("127.0.0.1", 9))


def datagram_to_a_path():
    a, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.sendto(b"x", told["socket"])


def connect_to_a_path():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.connect(told["socket"])


def read_memory_of():
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_size_t * 2)(told["victim_address"], 8)
    call(310, victim, ctypes.byref(vector), 1, ctypes.byref(remote), 1, 0)


def write_large():
    with open("large", "wb") as file:
        file.write(b"x" * (told["file_bytes"] + 1))


def hog(flags):
    """More than is allowed, with pages that are really there."""

    def attempt():
        [mmap.mmap(-1, 256 * 1024**2, flags=flags | mmap.MAP_ANONYMOUS) for _ in range(64)]  # all kept to the end

    return attempt


def mount():
    call(165, b"none", told["empty"].encode(), b"tmpfs", 0, None)
    call(166, told["empty"].encode(), 0)  # where it works, nothing is left behind


def bpf():
    call(321, 0, ctypes.create_string_buffer(128), 128)


def by_a_pipe(command, owner):
    """The kernel signals whoever owns it when it may be read."""
    ours, theirs = os.pipe()
    fcntl.fcntl(ours, command, owner)
    fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC)
    os.write(theirs, b"x")


def ask_of_a_file(command, argument=0):
    """That it may write: nothing but the command could fail."""

    def attempt():
        with open("asked", "w") as file:
            fcntl.fcntl(file, command, argument)

    return attempt


def lock_what_it_may_only_read():
    with open(model, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lease():
    with open(model, "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def notify():
    folder = os.open(".", os.O_RDONLY)
    fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_MODIFY)
    os.close(folder)  # else the signal, at the next file, would end us


def enlarge_a_pipe():
    for end in os.pipe():
        fcntl.fcntl(end, 1031, 2**20)


def change_attributes():
    """As `chattr +A`, of a file that it may only read."""
    with open(model, "rb") as file:
        flags = struct.unpack("l", fcntl.ioctl(file, 0x80086601, bytes(8)))[0]
        fcntl.ioctl(file, 0x40086602, struct.pack("l", flags | 0x80))


def watch_a_folder():
    if libc.inotify_add_watch(libc.inotify_init(), outside.encode(), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "")


def reserve():
    with open("reserved", "wb") as file:
        call(285, file.fileno(), 1, 0, 16 * told["file_bytes"])


def sync_a_file_system():
    """One that has nothing to write."""
    with open("/proc/cpuinfo") as file:
        call(306, file.fileno())


def splice():
    with open(model, "rb") as file:
        os.splice(file.fileno(), os.pipe()[1], 1)


def set_an_option():
    with socket.socket(fileno=os.dup(0)) as agent:
        agent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


def come_before_all_others():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def let_signals_wait():
    signal.pthread_sigmask(signal.SIG_BLOCK, {40})
    for _ in range(1000):
        call(234, os.getpid(), threading.get_native_id(), 40)


def thread_with_files_of_its_own():
    """Of which each would have as many open as the limit says, and nobody sees them."""
    stack = ctypes.create_string_buffer(65536)
    told["stack"] = stack  # kept
    top = ctypes.c_void_p(ctypes.addressof(stack) + 65520)
    flags = 0x100 | 0x800 | 0x10000  # CLONE_VM, CLONE_SIGHAND, CLONE_THREAD
    if libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), top, flags, None) < 0:
        raise OSError(ctypes.get_errno(), "")


def files_of_its_own():
    call(436, 900, 901, 2)


def receive():
    call(70, told["queue"], ctypes.create_string_buffer(64), 16, 0, 0o4000)


def wait_for(semaphore):
    """Not at all: it is free."""
    call(65, semaphore, struct.pack("Hhh", 0, -1, 0o4000), 1)


ATTEMPTS = {
    "read a file": lambda: read(secret),
    "read a file from a thread": run_in_a_thread(lambda: read(secret)),
    "read a file by way of /proc": lambda: read("/proc/self/root" + secret),
    "read a file by a hard link": link_and_read,
    "read a file by a symbolic link": follow_a_link,
    "read /etc/passwd": lambda: read("/etc/passwd"),
    "list a folder": lambda: os.listdir(outside),
    "open a file by openat2": lambda: call(437, AT_CWD, secret.encode(), (ctypes.c_uint64 * 3)(), 24),
    "write a file": lambda: open(marker, "w").close(),
    "make a folder": lambda: os.mkdir(marker + "-folder"),
    "move a file out": move_out,
    "link a file out": lambda: os.symlink("x", marker + "-link"),
    "truncate a file": lambda: os.truncate(told["victim_file"], 0),
    "truncate a file by opening it": truncate_by_reading,
    "change a mode": lambda: os.chmod(secret, 0o644),
    "change a date": lambda: os.utime(secret),
    "list attributes": lambda: os.listxattr(secret),
    "connect": lambda: socket.create_connection(("127.0.0.1", told["port"]), 2).close(),
    "connect from a thread": run_in_a_thread(lambda: socket.create_connection(("127.0.0.1", told["port"]), 2).close()),
    "listen": lambda: socket.create_server(("127.0.0.1", 0)).close(),
    "send a datagram": datagram,
    "send a datagram to a socket with a path": datagram_to_a_path,
    "connect to a socket with a path": connect_to_a_path,
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "exec": lambda: subprocess.run(["/bin/touch", marker], check=False),
    "spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
    "fork": lambda: forked(os.fork()),
    "fork, the raw call": lambda: forked(call(57)),
    "clone, the raw call": lambda: forked(call(56, SIGCHLD, 0, 0, 0, 0)),
    "clone3, the raw call": lambda: forked(call(435, (ctypes.c_uint64 * 8)(0, 0, 0, 0, SIGCHLD), 64)),
    "read who is connected": lambda: read("/proc/self/net/tcp"),
    "read who is connected, otherwise": lambda: read("/proc/thread-self/net/unix"),
    "read who is connected, by the old name": lambda: read("/proc/net/tcp"),
    "read an environment": lambda: read(f"/proc/{victim}/environ"),
    "read a command line": lambda: read(f"/proc/{victim}/cmdline"),
    "trace": lambda: call(101, 0x4206, victim, 0, 0),
    "read memory of another process": read_memory_of,
    "hold another process": lambda: call(434, victim, 0),
    "limit another process": lambda: call(302, victim, 7, (ctypes.c_uint64 * 2)(64, 64), None),
    "slow another process down": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
    "tie another process to a core": lambda: os.sched_setaffinity(victim, {0}),
    "come before all others": come_before_all_others,
    "leave the group that the agent ends": lambda: os.setpgid(0, 0),
    "outlive the agent": lambda: call(157, 1, 0),
    "make a namespace": lambda: call(272, 0x10000000 if os.getuid() else 0x40000000),
    "mount": mount,
    "change the root": lambda: os.chroot("/"),
    "bpf": bpf,
    "io_uring": lambda: call(425, 1, ctypes.create_string_buffer(120)),
    "keys of the kernel": lambda: call(248, b"user", b"x", b"y", 1, -2),
    "memory without a name": lambda: os.memfd_create("x"),
    "shared memory": lambda: call(29, 0, 4096, 0o1600),
    "write a large file": write_large,
    "a private memory bomb": hog(mmap.MAP_PRIVATE),
    "a shared memory bomb": hog(mmap.MAP_SHARED),
    "own the agent's socket": lambda: fcntl.ioctl(0, 0x8902, struct.pack("i", victim)),
    "own the agent's socket, otherwise": lambda: fcntl.ioctl(0, 0x8901, struct.pack("i", victim)),
    "choose a signal": lambda: fcntl.fcntl(0, fcntl.F_SETSIG, signal.SIGKILL),
    "have the kernel signal another process": lambda: by_a_pipe(fcntl.F_SETOWN, victim),
    "have the kernel signal another thread": lambda: by_a_pipe(15, struct.pack("ii", 0, victim)),
    "lease a file that it may only read": lease,
    "lease a file": ask_of_a_file(fcntl.F_SETLEASE, fcntl.F_WRLCK),
    "lock a file": ask_of_a_file(fcntl.F_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)),
    "lock a file that it may only read": lock_what_it_may_only_read,
    "hint at how a file is written": ask_of_a_file(1036, struct.pack("Q", 2)),
    "be told of a folder": notify,
    "watch": lambda: call(294, 0),
    "watch a folder that it may not list": watch_a_folder,
    "change attributes of a file": change_attributes,
    "reserve the disk": reserve,
    "write out what others wrote": sync_a_file_system,
    "splice": splice,
    "a filter of its own": lambda: call(317, 2, 0, struct.pack("I", 0x7FFF0000)),
    "set an option of the agent's socket": set_an_option,
    "take places in the machine's queues": lambda: call(206, 1, ctypes.byref(ctypes.c_ulong())),
    "let many signals wait": let_signals_wait,
    "enlarge a pipe": enlarge_a_pipe,
    "read a message of another process": receive,
    "send a message to another process": lambda: call(69, told["queue"], struct.pack("q8s", 1, b"forged"), 8, 0o4000),
    "take a semaphore": lambda: wait_for(told["semaphore"]),
    "give a semaphore, in time": lambda: call(220, told["semaphore"], struct.pack("Hhh", 0, 1, 0o4000), 1, None),
    "remove a queue": lambda: call(71, told["queue"], 0, None),
    "remove a semaphore": lambda: call(66, told["semaphore"], 0, 0),
    "remove a queue by its name": lambda: call(241, told["named_queue"].encode()),
    "a thread with files of its own": thread_with_files_of_its_own,
    "a thread that gets files of its own": run_in_a_thread(files_of_its_own),
    "keep the agent from looking": lambda: call(157, 4, 0),
    "rules without end": lambda: call(444, (ctypes.c_uint64 * 1)(1), 8, 0),
    "signal another process": lambda: os.kill(victim, signal.SIGTERM),
}


def tried(attempt):
    try:
        attempt()
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        return type(error).__name__
    return ""


import json  # noqa: E402

print(json.dumps({name: tried(attempt) for name, attempt in ATTEMPTS.items()}))
