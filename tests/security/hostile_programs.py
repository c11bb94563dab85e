"""Programs that try to get out, to take everything, or to be called right without being right.

Each is to define `add(a, b)`. Those of `ESCAPES` answer right exactly if their attack succeeded, so
any test passed is a hole; none of the others is ever right by honest means.
PORT, ABSTRACT, SECRET_FILE, SECRET and MARK are filled in by the test.
"""

ANSWER = """
def add(a, b):
    attack()
    return a + b
"""

_SYSCALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def attack():
    if libc.syscall(*CALL) < 0:
        raise OSError(ctypes.get_errno())
"""


def _syscall(*call: int) -> str:
    return _SYSCALL.replace("CALL", repr(call))


ESCAPES = {
    "tcp to this machine": """
import socket
def attack(): socket.create_connection(("127.0.0.1", PORT), 1).sendall(b"hello")
""",
    "tcp to the world": """
import socket
def attack(): socket.create_connection(("1.1.1.1", 80), 1)
""",
    "udp to the world": """
import socket
def attack(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("8.8.8.8", 53))
""",
    "abstract unix socket": """
import socket
def attack(): socket.socket(socket.AF_UNIX).connect("\\0ABSTRACT")
""",
    "unix socket of a service": """
import socket, glob
def attack():
    for path in ["/var/run/docker.sock", "/run/dbus/system_bus_socket", *glob.glob("/run/*")]:
        try:
            return socket.socket(socket.AF_UNIX).connect(path)
        except OSError:
            pass
    raise OSError
""",
    "write to the root": "def attack(): open('/MARK', 'w').write('x')",
    "write to /usr": "def attack(): open('/usr/MARK', 'w').write('x')",
    "write beside the scripts": "def attack(): open('/unmask/MARK', 'w').write('x')",
    "write into the interpreter": """
import os
def attack(): open(os.path.join(os.path.dirname(os.__file__), 'MARK.py'), 'w').write('x')
""",
    "write to a home": """
import os
def attack():
    for folder in ("/root", "/home", "/var/tmp", "/dev/shm", "/etc"):
        try:
            os.makedirs(folder, exist_ok=True); open(folder + "/MARK", "w").write("x"); return
        except OSError:
            pass
    raise OSError
""",
    "write to a device": "def attack(): open('/dev/MARK', 'w').write('x')",
    "read a file of the user's": """
def attack():
    assert "SECRET" in open("SECRET_FILE").read()
""",
    "read a file through a symbolic link": """
import os
def attack():
    if not os.path.lexists("/tmp/link"): os.symlink("SECRET_FILE", "/tmp/link")
    assert "SECRET" in open("/tmp/link").read()
""",
    "read accounts": "def attack(): assert 'root' in open('/etc/passwd').read() + open('/etc/shadow').read()",
    "secret in the environment": """
import os
def attack(): assert "SECRET" in repr(dict(os.environ))
""",
    "secret in another environment": """
import glob
def attack():
    for path in glob.glob("/proc/*/environ"):
        try:
            if b"SECRET" in open(path, "rb").read(): return
        except OSError:
            pass
    raise OSError
""",
    "list processes": """
import os
def attack(): assert any(name.isdigit() for name in os.listdir("/proc"))
""",
    "own memory through /proc": "def attack(): open('/proc/self/mem', 'rb').seek(0)",
    "list files beside it": """
import os
def attack(): assert any("security" in names or "pyproject.toml" in names for _, _, names in os.walk("/work"))
""",
    "become root": """
import os
def attack(): os.setuid(0); assert os.getuid() == 0
""",
    "be root": """
import os
def attack(): assert os.getuid() == 0 or os.geteuid() == 0 or 0 in os.getgroups()
""",
    "set-user programs": """
import subprocess
def attack():
    for command in (["su", "-c", "id"], ["sudo", "-n", "id"], ["mount"], ["pkexec", "id"]):
        try:
            if "uid=0" in subprocess.run(command, capture_output=True, text=True, timeout=1).stdout: return
        except (OSError, subprocess.SubprocessError):
            pass
    raise OSError
""",
    "raise its limits": """
import resource
def attack():
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_CPU):
        try:
            return resource.setrlimit(limit, unlimited)
        except (ValueError, OSError):
            pass
    raise OSError
""",
    "limits of another process": """
import resource
def attack(): resource.prlimit(1, resource.RLIMIT_NOFILE, (1, 1))
""",
    "priority of another process": """
import os
def attack(): os.setpriority(os.PRIO_PROCESS, 1, 19)
""",
    "new user namespace": _syscall(272, 0x10000000),
    "new mount namespace": _syscall(272, 0x00020000),
    "clone into a user namespace": _syscall(56, 0x10000000 | 17, 0, 0, 0, 0),
    "mount": _syscall(165, 0, 0, 0, 4096, 0),
    "unmount": """
import ctypes
libc = ctypes.CDLL(None)
def attack():
    if libc.umount2(b"/tmp", 2) < 0: raise OSError
""",
    "trace": _syscall(101, 0, 0, 0, 0),
    "another process's memory": _syscall(310, 1, 0, 0, 0, 0, 0),
    "key ring": _syscall(250, 0, -3, 1),
    "bpf": _syscall(321, 0, 0, 0),
    "io_uring": _syscall(425, 1, 0),
    "system v memory": _syscall(29, 0, 1 << 20, 0o1600),
    "memory file": """
import os
def attack(): os.memfd_create("x")
""",
    "make a device": """
import os, stat
def attack(): os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
""",
    "change the root": "import os\ndef attack(): os.chroot('/tmp')",
    "what the program before left": """
import os
found = os.path.exists("/tmp/left")
open("/tmp/left", "w").write("x")
def attack(): assert found
""",
    "a file larger than its disk": """
def attack():
    with open("/tmp/big", "wb") as f:
        for _ in range(64): f.write(bytes(1 << 20))
""",
    "files that fill the disk": """
def attack():
    for i in range(64): open(f"/tmp/{i}", "wb").write(bytes(1 << 20))
""",
    "a sparse file": """
import os
def attack():
    os.truncate(os.open("/tmp/sparse", os.O_CREAT | os.O_RDWR), 1 << 40)
""",
    "hard link": """
import os
def attack(): os.link("/usr/bin/env", "/tmp/env")
""",
    "many processes": """
import os, time
def attack():
    for _ in range(200):
        if os.fork() == 0: time.sleep(30); os._exit(0)
""",
    "many threads": """
import threading, time
def attack():
    for _ in range(200): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
""",
    "many files open": """
def attack():
    global kept
    kept = [open("/dev/null") for _ in range(5000)]
""",
    "one large allocation": "def attack(): bytearray(1 << 40)",
    "zip bomb": """
import zlib
def attack():
    packer = zlib.compressobj(9)
    small = b"".join(packer.compress(bytes(1 << 20)) for _ in range(2000)) + packer.flush()
    zlib.decompress(small)
""",
    "input": "def attack(): input()",
}

GREEDY = {
    "endless loop": "while True: pass",
    "endless loop in the call": "def add(a, b):\n    while True: pass",
    "endless sleep": "import time\ndef add(a, b): time.sleep(10**6)",
    "loop that ignores signals": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
""",
    "fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "fork bomb of daemons": """
import os
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass
""",
    "thread bomb": """
import threading
def go():
    while True:
        try: threading.Thread(target=go).start()
        except RuntimeError: pass
go()
""",
    "memory bomb": "kept = []\nwhile True: kept.append(bytes(1 << 20))",
    "memory bomb of many processes": """
import os
for _ in range(3): os.fork()
kept = []
while True:
    try: kept.append(bytearray(b"x") * (1 << 20))
    except MemoryError: pass
""",
    "shared memory bomb": """
import mmap, os
maps = [mmap.mmap(-1, 100 << 20) for _ in range(4)]
for _ in range(3): os.fork()
while True:
    for m in maps: m.write(b"x" * (100 << 20)); m.seek(0)
""",
    "endless output": "while True: print('x' * 10**6, flush=True)",
    "endless output to every descriptor": """
import os
while True:
    for fd in range(64):
        try: os.write(fd, b'x' * 65536)
        except OSError: pass
""",
    "endless lines to every descriptor": """
import os
while True:
    for fd in range(64):
        try: os.write(fd, b'["ok",true,[]]\\n' * 4096)
        except OSError: pass
""",
    "endless errors": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "deep recursion in C": """
import sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**6): x = [x]
repr(x)
""",
    "power tower": "def add(a, b): return 9**9**9**9",
    "large number to text": "def add(a, b): return len(str(1 << 10**9))",
    "catastrophic pattern": "import re\ndef add(a, b): return re.match(r'(a+)+$', 'a' * 60 + 'b')",
    "huge text as the answer": "def add(a, b): return 'x' * (100 << 20)",
    "huge list as the answer": "def add(a, b): return [0] * 10**8",
    "deeply nested answer": """
def add(a, b):
    x = []
    for _ in range(10**5): x = [x]
    return x
""",
    "cyclic answer": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "huge integer as the answer": "def add(a, b): return 1 << (1 << 26)",
    "answer that collides": "def add(a, b): return {i * (2**61 - 1) for i in range(40000)}",
    "endless iterator as the answer": "import itertools\ndef add(a, b): return itertools.count()",
    "many empty files": """
import itertools
for i in itertools.count(): open(f"/tmp/{i}", "w").close()
""",
    "many nested folders": """
import os
while True:
    os.mkdir("d"); os.chdir("d")
""",
    "daemon that outlives": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(9973)
    os._exit(0)
def add(a, b): return None
""",
    "programs that outlive": """
import subprocess
subprocess.Popen(["sleep", "9973"], start_new_session=True)
def add(a, b): return None
""",
    "thread that outlives": """
import threading, time
threading.Thread(target=time.sleep, args=(9973,)).start()
def add(a, b): return None
""",
    "kill the parent": """
import os, signal
def add(a, b):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL): os.kill(os.getppid(), number)
""",
    "kill everything": "import os\ndef add(a, b): os.kill(-1, 9)",
    "kill low process numbers": """
import os
def add(a, b):
    for pid in range(1, 5000):
        try: os.kill(pid, 9)
        except OSError: pass
""",
    "stop itself": "import os, signal\ndef add(a, b): os.kill(os.getpid(), signal.SIGSTOP)",
    "crash": "import ctypes\ndef add(a, b): return ctypes.string_at(0)",
    "abort": "import os\nos.abort()",
}

_CHANNEL = """
import os, stat
def say(*lines):
    for fd in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, "".join(line + "\\n" for line in lines).encode())
        except OSError: pass
"""
_WIRE = """
import sys
wire = sys.modules["wire"]
def forge(packed):
    wire.pack = lambda value, export: packed
"""

FORGERIES = {
    "exit at import": "exit()",
    "exit with 0 at import": "import sys\nsys.exit(0)",
    "end at once at import": "import os\nos._exit(0)",
    "right and exit": "def add(a, b): return a + b\nexit(0)",
    "right and end at once": "import os\ndef add(a, b): return a + b\nos._exit(0)",
    "exit in the call": "def add(a, b): exit()",
    "end at once in the call": "import os\ndef add(a, b): os._exit(0)",
    "raise SystemExit": "def add(a, b): raise SystemExit(0)",
    "raise KeyboardInterrupt": "def add(a, b): raise KeyboardInterrupt",
    "raise StopIteration": "def add(a, b): raise StopIteration",
    "raise a skip": "import unittest\ndef add(a, b): raise unittest.SkipTest('fine')",
    "end in a thread": """
import os, threading
def add(a, b):
    threading.Timer(0.01, os._exit, (0,)).start()
""",
    "no function": "x = 1",
    "no Python": "this is not Python",
    "empty": "",
    "print the marker": "print('OK'); print('PASSED'); print('1.0'); print('{\"passed\": [true, true, true]}')",
    "verdict on every descriptor": """
import os, struct
text = b'{"result": {"passed": [true, true, true], "reason": ""}}'
for fd in range(64):
    for data in (text + b"\\n", len(text).to_bytes(8, "big") + text):
        try: os.write(fd, data)
        except OSError: pass
""",
    "patched assertion error": "import builtins\nbuiltins.AssertionError = type('E', (Exception,), {})\ndef add(a, b): return None",
    "patched unittest": """
import unittest
for name in dir(unittest.TestCase):
    if name.startswith("assert"): setattr(unittest.TestCase, name, lambda *a, **k: None)
def add(a, b): return None
""",
    "patched builtins": """
import builtins
builtins.isinstance = lambda *a: True
builtins.len = builtins.abs = builtins.all = builtins.any = lambda *a: True
builtins.__import__ = lambda *a, **k: None
def add(a, b): return None
""",
    "patched modules": """
import sys
class Any:
    def __getattr__(self, name): return lambda *a, **k: True
for name in ("json", "judge", "frameworks", "server", "pytest", "unittest"): sys.modules[name] = Any()
def add(a, b): return None
""",
    "patched harness": """
import sys
main = sys.modules.get("candidate") or sys.modules["__main__"]
main.Candidate._answer = lambda self, message: self._send(["ok", True, []])
def add(a, b): return None
""",
    "trace of every call": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef add(a, b): return None",
    "catch everything": """
def add(a, b):
    try: raise SystemExit
    except BaseException: return True
""",
    "at exit": "import atexit\natexit.register(lambda: print('OK'))\ndef add(a, b): return None",
    "tests from the frames": """
import sys
def add(a, b):
    frame = sys._getframe()
    while frame is not None:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            text = repr(value)
            if "assert add" in text: return eval(text.split(f"add({a}, {b}) == ")[1].split("'")[0])
        frame = frame.f_back
""",
    "tests from the collector": """
import gc
def add(a, b):
    wanted = f"add({a}, {b}) " + "== "
    for thing in gc.get_objects():
        for item in gc.get_referents(thing):
            if isinstance(item, str) and wanted in item: return int(item.split("== ")[1])
""",
    "tests from memory": """
import ctypes
def add(a, b):
    start = id(a) & ~0xFFFFF
    data = ctypes.string_at(start, 1 << 20)
    wanted = f"add({a}, {b}) ==".encode()
    return int(data.split(wanted)[1][:8]) if wanted in data else None
""",
    "tests from files": """
import glob
def add(a, b):
    for path in glob.glob("/tmp/**", recursive=True) + glob.glob("/unmask/**", recursive=True):
        try: text = open(path).read()
        except (OSError, UnicodeDecodeError): continue
        if f"add({a}, {b}) ==" in text: return int(text.split(f"add({a}, {b}) ==")[1].split()[0])
""",
    "tests from descriptors": """
import os
def add(a, b):
    for fd in range(3, 64):
        try: os.set_blocking(fd, False); data = os.read(fd, 65536)
        except OSError: continue
        if b"==" in data: return int(data.split(b"==")[1].split()[0])
""",
    "equal to everything": """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
    def __bool__(self): return True
def add(a, b): return Always()
""",
    "integer equal to everything": """
class Always(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def add(a, b): return Always(-1)
""",
    "texts, lists and dicts equal to everything": """
def always(kind, value): return type("A", (kind,), {"__eq__": lambda s, o: True, "__hash__": lambda s: 0})(value)
def add(a, b): return {2: always(str, "x"), -1: always(list, [1]), 10: always(dict, {})}[a]
""",
    "equal to everything and calls itself int": """
class Always:
    __class__ = int
    def __eq__(self, other): return True
def add(a, b): return Always()
""",
    "mock of anything": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "magic mock": "from unittest.mock import MagicMock\nadd = MagicMock()",
    "learns by subtraction": """
class Learn:
    seen = None
    def __sub__(self, other): Learn.seen = other; return 0
    __rsub__ = __add__ = __radd__ = __lt__ = __le__ = __eq__ = __sub__
def add(a, b): return Learn.seen if Learn.seen is not None else Learn()
""",
    "class instead of a function": """
class add:
    def __init__(self, a, b): pass
    def __eq__(self, other): return True
    def __bool__(self): return True
""",
    "metaclass equal to everything": """
class Meta(type):
    def __eq__(cls, other): return True
    def __hash__(cls): return 0
class Thing(metaclass=Meta): pass
def add(a, b): return Thing
""",
    "not a number": "def add(a, b): return float('nan')",
    "not implemented": "def add(a, b): return NotImplemented",
    "text of the answer": "def add(a, b): return str(a + b)",
    "digits of another script": "def add(a, b): return '５'",
    "answer in a list": "def add(a, b): return [a + b]",
    "truth": "def add(a, b): return True",
    "surrogates in the program": "x = '\ud800'\ndef add(a, b): return '\ud800'",
    "surrogates in the answer": "def add(a, b): return '\\ud800' * 100",
    "zero bytes": "def add(a, b):\0 return a + b",
    "right to left": "def add(a, b):\u202e return b + a # \u2066",
    "name of other letters": "def аdd(a, b): return a + b",
    "byte order marks": "\ufeff\ufeffdef add(a, b): return a + b",
    "generator": "def add(a, b): yield a + b",
    "coroutine": "async def add(a, b): return a + b",
    "changes its arguments": "def add(a, b):\n    a += b\n    return b",
    "answers before it is asked": _CHANNEL
    + "say(*['[\"ok\",true,[]]'] * 9)\ndef add(a, b): return None",
    "errors before it is asked": _CHANNEL
    + 'say(*[\'["error",["SystemExit"],"",[]]\'] * 9)\ndef add(a, b): return None',
    "wrong shapes": _CHANNEL
    + "say('[]', '{}', '0', '[\"ok\"]', '[\"ok\", [\"l\", [\"zz\"]], []]')\ndef add(a, b): return None",
    "no text": _CHANNEL
    + "say('\\udcff'.encode('utf8', 'surrogateescape').decode('latin1'))\ndef add(a, b): return None",
    "deep message": _CHANNEL + "say('[' * 10**6)\ndef add(a, b): return None",
    "long message": _CHANNEL + "say('x' * (20 << 20))\ndef add(a, b): return None",
    "number of a million digits": _CHANNEL
    + "say('[\"ok\",' + '9' * 10**6 + ',[]]')\ndef add(a, b): return None",
    "calls nobody offered": _CHANNEL
    + 'say(*[\'["call",0,["l"],["d"]]\'] * 50)\ndef add(a, b): return None',
    "value of another module": _WIRE + "def add(a, b): forge(['v', 'os', 'system', ['kill -9 1']])",
    "builtin that evaluates": _WIRE + "def add(a, b): forge(['n', 'eval'])",
    "array of objects": _WIRE + "def add(a, b): forge(['a', 'O', [1], ['l', 1]])",
    "array of everything": _WIRE + "def add(a, b): forge(['a', '<i8', [10**12], ['l', 1]])",
    "handle that says it is a class": _WIRE + "def add(a, b): forge(['o', 0, 'type'])",
    "handle of nothing": _WIRE + "def add(a, b): forge(['o', 10**9, 'object'])",
    "callback of nothing": _WIRE + "def add(a, b): forge(['k', -1])",
    "range without end": _WIRE + "def add(a, b): forge(['r', 0, 10**18, 1])",
}
