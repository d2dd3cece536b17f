"""An agent that tries to leave its place. Prints a line an attempt: its name, and what came of it."""

import ctypes
import errno
import os
import signal
import socket
import sys
import time

guard, other_home, keys, outside = sys.argv[1:5]
# Numbers of system calls differ between the two machines this runs on.
X86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
base, count = int(os.environ["PORT_BASE"]), int(os.environ["PORT_COUNT"])


def call(function, *args):
    if function(*args) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def syscall(number, *args):
    call(libc.syscall, ctypes.c_long(number), *(ctypes.c_long(arg) for arg in args))


def born(number, *args):
    pid = libc.syscall(ctypes.c_long(number), *args)
    if pid == 0:
        os._exit(0)
    if pid == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# A child in a user namespace of its own.
FLAGS = ctypes.c_long(0x10000000 | signal.SIGCHLD)
ARGS = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD)
NONE = ctypes.c_long(0)


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def write(path):
    with open(path, "wb") as file:
        file.write(b"x")


def listen(port):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()


def listen_as(family, protocol, port):
    with socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()


def connect(path, kind):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(path)


def abstract_socket():
    while True:
        try:
            connect("\0neighbour", socket.SOCK_STREAM)
            return
        except ConnectionRefusedError:
            time.sleep(0.01)  # Nobody listens yet.


def foreign_processes():
    own = os.getuid()
    seen = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    foreign = [pid for pid in seen if os.stat(f"/proc/{pid}").st_uid != own]
    if not foreign:
        raise OSError(errno.ENOENT, "none to be seen")


def foreign_signals():
    with open("/proc/sys/kernel/pid_max") as most:
        numbers = int(most.read())
    for pid in range(2, numbers):
        try:
            os.kill(pid, 0)
        except OSError:
            continue
        if os.stat(f"/proc/{pid}").st_uid != os.getuid():
            return
    raise OSError(errno.ESRCH, "none to be reached")


def metadata():
    try:
        socket.create_connection(("169.254.169.254", 80), 1).close()
    except PermissionError:
        raise
    except OSError:
        pass  # It was tried; only nobody was there to answer.


def privileges():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    none = all(int(lines[name], 16) == 0 for name in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"])
    if none and lines["NoNewPrivs"].strip() == "1":
        raise OSError(errno.EPERM, "none")


def leave_group():
    with open("/proc/self/cgroup") as groups:
        assert "fleet" in groups.read()
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]:
        if os.path.exists(f"{root}/cgroup.procs"):
            write(f"{root}/cgroup.procs")


ATTEMPTS = {
    "another agent's HOME": lambda: read(f"{other_home}/secret"),
    "a list of other agents": lambda: os.listdir(os.path.dirname(other_home)),
    "the node's keys": lambda: read(f"{keys}/node.key"),
    "the cluster's key": lambda: read(f"{keys}/ca.key"),
    "what the node knows": lambda: os.listdir(keys),
    "a file outside HOME": lambda: write(f"{outside}/planted"),
    "a file of the system": lambda: write("/usr/local/bin/planted"),
    "another's port": lambda: listen(base + count),
    "any port": lambda: listen(0),
    "another's port by multipath TCP": lambda: listen_as(socket.AF_INET, 262, base + count),
    "another's port by SMC": lambda: listen_as(43, 0, base + count),
    "SMC by another name": lambda: listen_as(socket.AF_INET, 256, base + count),
    "the guard's socket": lambda: connect(guard, socket.SOCK_STREAM),
    "init's socket": lambda: connect(os.path.dirname(guard) + "/init", socket.SOCK_SEQPACKET),
    "another agent's abstract socket": abstract_socket,
    "processes of others": foreign_processes,
    "signals to others": foreign_signals,
    "a signal to init": lambda: os.kill(1, signal.SIGKILL),
    "the machine's metadata": metadata,
    "capabilities": privileges,
    "root": lambda: os.setuid(0),
    "another control group": leave_group,
    "a mount": lambda: call(libc.mount, b"tmpfs", b"/mnt", b"tmpfs", 0, None),
    "a user namespace": lambda: call(libc.unshare, 0x10000000),
    "one for a child": lambda: born(56 if X86 else 220, FLAGS, NONE, NONE, NONE, NONE),
    "one by flags in memory": lambda: born(435, ctypes.byref(ARGS), ctypes.c_long(88)),
    "a network namespace": lambda: call(libc.unshare, 0x40000000),
    "the namespace of the machine": lambda: call(libc.setns, os.open("/proc/self/ns/net", os.O_RDONLY), 0),
    "tracing": lambda: call(libc.ptrace, 16, os.getppid(), 0, 0),
    "another's memory": lambda: call(libc.process_vm_readv, os.getppid(), 0, 0, 0, 0, 0),
    "io_uring": lambda: syscall(425, 1, 0),
    "bpf": lambda: syscall(321 if X86 else 280, 0, 0, 0),
    "the kernel's keys": lambda: syscall(250 if X86 else 219, 0, 0, 0),
    "the clock": lambda: syscall(227 if X86 else 112, 0, 0),
    "the host name": lambda: call(libc.sethostname, b"other", 5),
}

for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        print(f"{name}: ALLOWED", flush=True)
    except OSError as error:
        print(f"{name}: refused ({error.strerror})", flush=True)

# What it must still be able to do.
write(os.path.expanduser("~/own"))
write("/tmp/own")
listen(base)
listen(base + count - 1)
print("done", sorted(os.listdir("/tmp")), flush=True)
signal.pause()
