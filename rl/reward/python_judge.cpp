#include "rl/reward/python_judge.h"

namespace mantissa {
namespace {

constexpr std::string_view kJudge =
    R"python(# Runs the tests of an answer. What the answer defines are proxies: a call goes to the process that runs it, and what
# comes back are values of this process's own types, so that no code of the answer takes part in a comparison.
import ast, builtins, io, json, os, sys, threading
with os.fdopen(0, "r", encoding="utf-8") as source: job = json.load(source)
if job["hide"]:  # nothing else keeps the answer from reading this process's memory
    import ctypes
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
_in = os.fdopen(3, "r", encoding="utf-8", newline="\n", errors="replace")
_out = os.fdopen(4, "w", encoding="utf-8", newline="\n")
_verdict = os.dup(1)
os.dup2(2, 1)
def waits(now, write=os.pwrite):
    """Marks for the trainer whether the answer is at work. Its process has not this descriptor."""
    write(5, b"1" if now else b"0", 0)
_limit = 64 << 20
_peers, _numbers, _classes = [], {}, {}

# Raised inside map() they end it in silence, and with it the tests.
_ends_loops = (StopIteration, StopAsyncIteration)
_modules = ("math cmath re string itertools functools collections heapq bisect random statistics fractions decimal datetime "
            "typing operator copy json numpy").split()

class Ended(Exception): pass

class Remote:
    """An object of the answer."""
    __slots__ = ("_n", "_type")
    def __init__(self, number, name): self._n, self._type = number, name
    def __call__(self, *args, **named): return ask({"op": "call", "of": {"o": self._n}, "args": encode(args), "named": encode(named)})
    def __getattr__(self, name):
        if name.startswith("__") and name.endswith("__") and name not in ("__name__", "__doc__"): raise AttributeError(name)
        return ask({"op": "get", "of": {"o": self._n}, "name": name})
    def __setattr__(self, name, value):
        if name in Remote.__slots__: return object.__setattr__(self, name, value)
        ask({"op": "set", "of": {"o": self._n}, "name": name, "value": encode(value)})
    def __eq__(self, other):
        if not isinstance(other, Remote): return False
        if self._n == other._n: return True
        return self._type == other._type and self._ask("vars") == other._ask("vars")
    def __ne__(self, other):
        if other is not None and not isinstance(other, Remote): raise TypeError("an object of the answer is compared with a value")
        return not self == other
    def __hash__(self): return self._n
    def _ask(self, op, **more): return ask({"op": op, "of": {"o": self._n}, **more})
    def __instancecheck__(self, value):
        return type(value) is Remote and self._ask("isinstance", value=encode(value)) is True
    def __iter__(self):
        items = self._ask("iter")
        if not isinstance(items, Remote): raise TypeError("no iterator")
        while True:
            item = items._ask("next")
            if not item: return
            yield item[0]
    def __next__(self):
        item = self._ask("next")
        if not item: raise StopIteration
        return item[0]
    def __bool__(self): return True

def _special(name):
    def call(self, *args):
        try: method = self._ask("get", name=name)
        except AttributeError: raise TypeError("an object of the answer has no " + name) from None
        return method(*args)
    return call
def _typed(name, kind):
    forward = _special(name)
    def call(self, *args):
        value = forward(self, *args)
        if type(value) is not kind: raise TypeError(name + " gave no " + kind.__name__)
        return value
    return call
for _name, _kind in (("__len__", int), ("__str__", str), ("__repr__", str), ("__contains__", bool), ("__int__", int), ("__float__", float)):
    setattr(Remote, _name, _typed(_name, _kind))
for _name in ("getitem", "setitem", "delitem", "neg", "abs", "enter", "exit"):
    setattr(Remote, "__" + _name + "__", _special("__" + _name + "__"))

def _among_objects(name):
    forward = _special(name)
    def call(self, other):
        # abs(f(1) - 3.14) < 1e-9 would ask the object how far it is from what is wanted.
        if type(other) is not Remote: raise TypeError("an object of the answer calculates with a value")
        return forward(self, other)
    return call
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Remote, "__" + _name + "__", _among_objects("__" + _name + "__"))

def encode(value, depth=0):
    if depth > 200: raise ValueError("nested too deep")
    inner = lambda values: [encode(v, depth + 1) for v in values]
    kind = type(value)
    if value is None or kind is bool: return value
    if isinstance(value, int): return {"i": format(int(value), "x")}
    if isinstance(value, float): return {"f": repr(float(value))}
    if isinstance(value, str): return str(value)
    if kind is complex: return {"c": [repr(value.real), repr(value.imag)]}
    if kind in (bytes, bytearray): return {"b": value.hex(), "t": kind.__name__}
    if isinstance(value, list): return {"l": inner(value)}
    if isinstance(value, tuple): return {"t": inner(value)}
    if kind in (set, frozenset): return {"s": inner(value)}
    if isinstance(value, dict): return {"d": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if kind is range: return {"r": [value.start, value.stop, value.step]}
    if kind is Remote: return {"o": value._n}
    if id(value) not in _numbers:
        _numbers[id(value)] = len(_peers)
        _peers.append(value)
    return {"peer": _numbers[id(value)]}

def decode(value):
    if value is None or type(value) in (bool, str): return value
    if type(value) is not dict: raise ValueError("malformed value")
    kind, body = next(iter(value.items()))
    if kind == "i": return int(body, 16)
    if kind == "f": return float(body)
    if kind == "c": return complex(float(body[0]), float(body[1]))
    if kind == "b": return bytearray.fromhex(body) if value.get("t") == "bytearray" else bytes.fromhex(body)
    if kind == "l": return [decode(v) for v in body]
    if kind == "t": return tuple(decode(v) for v in body)
    if kind == "s": return set(decode(v) for v in body)
    if kind == "d": return {decode(k): decode(v) for k, v in body}
    if kind == "r": return range(*(int(v) for v in body))
    if kind == "o": return Remote(int(body), str(value.get("n")))
    if kind == "peer": return _peers[int(body)]
    raise ValueError("malformed value")

def exception_of(names, text):
    for name in names:
        if name in _classes: return _classes[name](text)
        known = getattr(builtins, str(name), None)
        if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, _ends_loops + (AssertionError,)):
            try: return known(text)
            except Exception: break
        if name in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "AssertionError"): break
    return RuntimeError(f"{names[0] if names else 'error'} in the answer: {text}")

def peer_does(m):
    """What the answer may do to objects of the tests: call functions, see and set public attributes of instances."""
    peer, args = _peers[int(m["of"])], [decode(a) for a in m.get("args", [])]
    waits(False)  # from here on it is the tests' work
    if m["op"] == "call" and callable(peer): return encode(peer(*args))
    name = str(m.get("name"))
    if name.startswith("_") or type(peer).__module__ != "__main__": raise AttributeError(name)
    if m["op"] == "get": return encode(getattr(peer, name))
    if m["op"] == "set" and not callable(getattr(type(peer), name, None)): return setattr(peer, name, decode(m["value"]))
    raise AttributeError(name)

def receive():
    line = _in.readline(_limit)
    if not line.endswith("\n"): raise Ended("the answer's process ended")
    message = json.loads(line)
    if type(message) is not dict: raise Ended("the answer's process broke the protocol")
    return message

def send(message):
    waits(True)  # already now: it may not read
    try:
        _out.write(json.dumps(message) + "\n")
        _out.flush()
    except OSError: raise Ended("the answer's process ended") from None

_turn = threading.RLock()  # tests may call the answer from several threads

def ask(message):
    with _turn:
        try: return converse(message)
        finally: waits(False)

def converse(message):
    send(message)
    while True:
        reply = receive()
        if "op" in reply:
            try: answer = {"value": peer_does(reply)}
            except Exception as error: answer = {"error": True, "text": str(error)[:300]}
            send(answer)
        elif "error" in reply:
            names = reply["error"]
            raise exception_of([str(n) for n in names] if type(names) is list else [], str(reply.get("text"))[:300])
        elif message["op"] == "load": return reply.get("value")
        elif message["op"] == "next": return [decode(v) for v in reply["value"]]
        else: return decode(reply.get("value"))

def verdict(correct, reason, status="parsed"):
    os.write(_verdict, (json.dumps({"correct": correct, "reason": reason[:300], "status": status}) + "\n").encode())
    os._exit(0)

def names_of_answer(space):
    for name, kind in ask({"op": "load", "code": job["code"]}):
        if type(name) is not str or name.startswith("__") or not name.isidentifier(): continue
        if hasattr(builtins, name): continue  # the tests' len is not the answer's
        if "exception" in kind:
            bases = [getattr(builtins, n) for n in kind["exception"] if isinstance(getattr(builtins, str(n), None), type)]
            base = next((b for b in bases if issubclass(b, Exception) and not issubclass(b, _ends_loops)), Exception)
            space[name] = _classes[name] = type(name, (base,), {})
        elif "module" in kind:
            if kind["module"] in _modules:
                try: space[name] = __import__(kind["module"])
                except ImportError: pass
        else: space[name] = decode(kind["value"])

def does_something(statement):
    """Whether a statement of the tests runs any of them; definitions, imports and constants do not."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)): return False
    if isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign)): return any(isinstance(n, ast.Call) for n in ast.walk(statement))
    return True

try:
    tree = ast.parse(job["tests"])
    tests = compile(tree, "tests", "exec")
except (SyntaxError, ValueError) as error: verdict(False, f"the tests are no Python: {error}", "error")
if not any(map(does_something, tree.body)): verdict(False, "the tests define functions and call none", "error")
_results = []
if "unittest" in job["tests"]:  # its runners may end without an exception where a test has failed
    import unittest
    _made = unittest.TestResult.__init__
    def _make(self, *args, **named):
        _results.append(self)
        _made(self, *args, **named)
    unittest.TestResult.__init__ = _make
module = type(sys)("__main__")
sys.modules["__main__"] = module
sys.setrecursionlimit(20000)
try: names_of_answer(module.__dict__)
except BaseException as error: verdict(False, f"the answer does not run: {error!r}")
try: exec(tests, module.__dict__)
except SystemExit as end:
    if end.code not in (None, 0, False): verdict(False, f"the tests exited with {end.code}")
except AssertionError as error: verdict(False, f"a test fails {error}".rstrip())
except BaseException as error: verdict(False, f"a test raises {error!r}")
if not all(r.wasSuccessful() for r in _results): verdict(False, "a test fails")
verdict(True, "all tests pass")
)python";

constexpr std::string_view kRunner =
    R"python(# Runs an answer's code and answers questions about it: one JSON message a line, from descriptor 0 to descriptor 1 of
# the start. It knows the arguments of calls, never what the tests expect.
import io, json, os, sys
_in = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
_out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
_null = os.open(os.devnull, os.O_RDWR)
for _fd in (0, 1): os.dup2(_null, _fd)
sys.stdin, sys.stdout = io.StringIO(""), open(os.devnull, "w")
_dumps, _loads = json.dumps, json.loads
_objects, _ids = [], {}

class Peer:
    """An object of the tests: its public attributes and, of a function, its calls."""
    def __init__(self, number): object.__setattr__(self, "_number", number)
    def __call__(self, *args): return ask({"op": "call", "of": self._number, "args": [encode(a) for a in args]})
    def __getattr__(self, name): return ask({"op": "get", "of": self._number, "name": name})
    def __setattr__(self, name, value): ask({"op": "set", "of": self._number, "name": name, "value": encode(value)})

def handle(value):
    if id(value) not in _ids:
        _ids[id(value)] = len(_objects)
        _objects.append(value)
    return _ids[id(value)]

def encode(value, depth=0):
    if depth > 200: raise ValueError("nested too deep")
    inner = lambda values: [encode(v, depth + 1) for v in values]
    if value is None or value is True or value is False: return value
    if isinstance(value, int): return {"i": format(int(value), "x")}
    if isinstance(value, float): return {"f": repr(float(value))}
    if isinstance(value, str): return str.__str__(value)
    if isinstance(value, complex): return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, (bytes, bytearray)): return {"b": bytes(value).hex(), "t": type(value).__name__}
    if isinstance(value, list): return {"l": inner(value)}
    if isinstance(value, tuple): return {"t": inner(value)}
    if isinstance(value, (set, frozenset)): return {"s": inner(value)}
    if isinstance(value, dict): return {"d": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if isinstance(value, Peer): return {"peer": value._number}
    if isinstance(value, (range,)): return {"r": [value.start, value.stop, value.step]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"): return encode(value.tolist(), depth + 1)
    return {"o": handle(value), "n": type(value).__name__}

def decode(value):
    if not isinstance(value, dict): return value
    kind, body = next(iter(value.items()))
    if kind == "i": return int(body, 16)
    if kind == "f": return float(body)
    if kind == "c": return complex(float(body[0]), float(body[1]))
    if kind == "b": return bytearray.fromhex(body) if value["t"] == "bytearray" else bytes.fromhex(body)
    if kind == "l": return [decode(v) for v in body]
    if kind == "t": return tuple(decode(v) for v in body)
    if kind == "s": return set(decode(v) for v in body)
    if kind == "d": return {decode(k): decode(v) for k, v in body}
    if kind == "r": return range(*body)
    if kind == "o": return _objects[body]
    return Peer(body)

def send(message):
    _out.write(_dumps(message) + "\n")
    _out.flush()

def failure(error):
    names = [c.__name__ for c in type(error).__mro__]
    try: text = str(error)[:300]
    except BaseException: text = ""
    return {"error": names, "text": text}

def ask(message):
    send(message)
    while True:
        line = _in.readline()
        if not line: os._exit(0)
        reply = _loads(line)
        if "op" in reply: serve(reply)
        elif "error" in reply: raise RuntimeError(reply["text"])
        else: return decode(reply["value"])

def kind_of(name, value):
    if isinstance(value, type) and issubclass(value, BaseException):
        return {"exception": [c.__name__ for c in value.__mro__]}
    if isinstance(value, type(sys)): return {"module": value.__name__}
    return {"value": encode(value)}

def perform(m):
    op = m["op"]
    if op == "load":
        code = compile(m["code"], "answer.py", "exec")
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        exec(code, module.__dict__)
        return [[n, kind_of(n, v)] for n, v in list(module.__dict__.items()) if not n.startswith("__")]
    of = decode(m["of"]) if "of" in m else None
    if op == "call": return encode(of(*decode(m["args"]), **decode(m["named"])))
    if op == "get": return encode(getattr(of, m["name"]))
    if op == "set": return setattr(of, m["name"], decode(m["value"]))
    if op == "next":
        try: return [encode(next(of))]
        except StopIteration: return []
    if op == "iter": return encode(iter(of))
    if op == "isinstance": return isinstance(decode(m["value"]), of)
    if op == "vars": return encode(dict(vars(of)))
    raise ValueError(op)

def serve(message):
    try: reply = {"value": perform(message)}
    except BaseException as error: reply = failure(error)
    try: send(reply)
    except ValueError as error: send(failure(error))

sys.setrecursionlimit(20000)
while True:
    line = _in.readline()
    if not line: break
    serve(_loads(line))
os._exit(0)
)python";

}  // namespace

std::string_view python_judge() {
  return kJudge;
}

std::string_view python_runner() {
  return kRunner;
}

}  // namespace mantissa
