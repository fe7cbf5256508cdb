"""A seccomp filter written as BPF in plain Python, for x86_64 and aarch64.

The filter refuses (EPERM) what untrusted code has no business with: sockets, tracing, mounts, namespaces, keys, kernel
interfaces, IPC that outlives a process. Syscalls newer than the table answer ENOSYS, so that a new kernel does not
widen the hole; another architecture's syscall ABI kills. Source of the numbers: the kernel's `unistd.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator

# name: (x86_64, aarch64); -1 where the architecture has no such call.
SYSCALLS: dict[str, tuple[int, int]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269), "sendto": (44, 206),
    "socketpair": (53, 199), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "kcmp": (312, 272), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "setns": (308, 268), "unshare": (272, 97), "clone": (56, 220),
    "clone3": (435, 435), "fork": (57, -1), "vfork": (58, -1), "execveat": (322, 281), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "create_module": (174, -1), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "acct": (163, 89), "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "syslog": (103, 116), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, -1), "ioperm": (173, -1), "modify_ldt": (154, -1), "lookup_dcookie": (212, 18),
    "uselib": (134, -1), "nfsservctl": (180, 42), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195),
    "shmdt": (67, 197), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183), "mq_notify": (244, 184),
    "mq_getsetattr": (245, 185), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "vhangup": (153, 58), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "prlimit64": (302, 261), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, -1), "fchown": (93, 55),
    "lchown": (94, -1), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "utime": (132, -1),
    "utimes": (235, -1), "utimensat": (280, 88), "futimesat": (261, -1), "truncate": (76, 45), "ioctl": (16, 29),
}  # fmt: skip
NEWEST = 450

_ALWAYS = [
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendmsg",
    "sendmmsg",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "pidfd_getfd",
    "pidfd_send_signal",
    "kcmp",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "open_tree",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "setns",
    "unshare",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "kexec_load",
    "kexec_file_load",
    "reboot",
    "swapon",
    "swapoff",
    "quotactl",
    "quotactl_fd",
    "acct",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "syslog",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
    "modify_ldt",
    "lookup_dcookie",
    "uselib",
    "nfsservctl",
    "shmget",
    "shmat",
    "shmctl",
    "shmdt",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "semget",
    "semop",
    "semctl",
    "semtimedop",
    "mq_open",
    "mq_unlink",
    "mq_timedsend",
    "mq_timedreceive",
    "mq_notify",
    "mq_getsetattr",
    "memfd_create",
    "memfd_secret",
    "name_to_handle_at",
    "open_by_handle_at",
    "fanotify_init",
    "fanotify_mark",
    "vhangup",
    "migrate_pages",
    "move_pages",
    "mbind",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setpriority",
    "ioprio_set",
    "sched_setscheduler",
    "sched_setparam",
    "sched_setattr",
]
# Without a PID namespace and private mounts, the candidate could reach processes and files of its own uid with these.
_ALONE = [
    "tkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "utime",
    "utimes",
    "utimensat",
    "futimesat",
    "execveat",
    "fork",
    "vfork",
]

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _AND, _EQ, _GE, _SET, _RET = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NEW_NAMESPACES = 0x20000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_CLONE_THREAD = 0x10000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_OWN_PID = 0x7AB1D00D  # stands for the process's own id until `for_pid` puts it in

Instruction = tuple[int, int, int, int]


def machine() -> str:
    """`x86_64` or `aarch64`; raises OSError elsewhere, since there is no table for it."""
    name = platform.machine()
    if name not in _AUDIT:
        raise OSError(f"no seccomp table for {name}")
    return name


def _fail(code: int) -> Instruction:
    return (_RET, 0, 0, _ERRNO | code)


def _argument(index: int, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


def _rule(number: int, body: list[Instruction]) -> list[Instruction]:
    """`body` runs for this syscall only; falling off its end allows the call."""
    body = [*body, (_RET, 0, 0, _ALLOW)]
    return [(_EQ, 0, len(body), number), *body]


def _argument_rules(alone: bool, number: dict[str, int]) -> Iterator[list[Instruction]]:
    """The calls that are refused for some arguments only."""
    deny = _fail(errno.EPERM)
    clone = [_argument(0), (_SET, 0, 1, _NEW_NAMESPACES), deny]
    if alone:
        clone += [(_SET, 1, 0, _CLONE_THREAD), deny]
    yield _rule(number["clone"], clone)
    # asyncio needs a stream pair of its own; a datagram one could send to any socket file.
    pair = [_argument(0), (_EQ, 1, 0, 1), deny, _argument(1), (_AND, 0, 0, 0xF), (_EQ, 1, 0, 1), deny]
    yield _rule(number["socketpair"], pair)
    address = [_argument(4), (_EQ, 1, 0, 0), deny, _argument(4, high=True), (_EQ, 1, 0, 0), deny]
    yield _rule(number["sendto"], address)
    yield _rule(number["ioctl"], [_argument(1), (_EQ, 0, 1, _TIOCSTI), deny, (_EQ, 0, 1, _TIOCLINUX), deny])
    if alone:
        for name in ("kill", "tgkill"):
            yield _rule(number[name], [_argument(0), (_EQ, 1, 0, _OWN_PID), deny])
    # The warm interpreter shares the candidate's uid: it must not be limited or slowed from outside.
    for name in ("prlimit64", "sched_setaffinity"):
        yield _rule(number[name], [_argument(0), (_EQ, 1, 0, 0), deny])


def program(*, alone: bool, truncate: bool = True) -> bytes:
    """The filter as `struct sock_filter` entries, 8 bytes each.

    `alone` is for a process without namespaces: no fork, signals to itself only, no change of file metadata.
    `truncate=False` also refuses truncation by path, which Landlock cannot see before its third version.
    """
    column = ("x86_64", "aarch64").index(machine())
    number = {name: pair[column] for name, pair in SYSCALLS.items()}
    denied = list(_ALWAYS) + (_ALONE if alone else []) + ([] if truncate else ["truncate"])
    code: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQ, 1, 0, _AUDIT[machine()]),
        (_RET, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_GE, 0, 1, 0x40000000),  # the x32 ABI: the same calls under other numbers
        (_RET, 0, 0, _KILL),
        (_GE, 0, 1, NEWEST + 1),
        _fail(errno.ENOSYS),
        (_EQ, 0, 1, number["clone3"]),  # its flags lie in memory, out of a filter's sight; libc falls back to clone
        _fail(errno.ENOSYS),
    ]
    for name in denied:
        if number[name] >= 0:
            code += [(_EQ, 0, 1, number[name]), _fail(errno.EPERM)]
    for rule in _argument_rules(alone, number):
        code += rule
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def for_pid(filter_bytes: bytes, pid: int) -> bytes:
    """The filter with the placeholder for "myself" replaced by `pid`."""
    return filter_bytes.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", pid))


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class Prepared:
    """A filter ready for the kernel, made once for many installations."""

    def __init__(self, filter_bytes: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(filter_bytes, len(filter_bytes))
        self._header = _Program(len(filter_bytes) // 8, ctypes.addressof(self._buffer))

    def install(self, libc: ctypes.CDLL) -> None:
        """Bind this process to the filter for good. Raises OSError when the kernel refuses."""
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(self._header), 0, 0):
            code = ctypes.get_errno()
            raise OSError(code, f"seccomp: {os.strerror(code)}")
