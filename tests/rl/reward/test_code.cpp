// Rewards of Python answers: what is right passes, ways to a reward without an answer do not, and the sandbox holds.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "core/fields.h"
#include "rl/reward/code.h"
#include "rl/reward/reward.h"
#include "tests/support/temp_dir.h"

namespace mantissa {
namespace {

using Strings = std::vector<std::string>;

const RewardConfig kCode{.kind = "code", .format = "free", .boxed_only = false, .command = "", .timeout_s = 60};
const std::string kSquare = "def f(x): return x*x\n", kTest = "assert f(2) == 4";

Grade run(const std::string& code, const std::string& tests) {
  return grade(kCode, "Here it is:\n```python\n" + code + "\n```\n", tests);
}
void expect(bool right, const std::string& code, const std::string& tests) {
  const Grade g = run(code, tests);
  EXPECT_EQ(g.correct, right) << code << "\n--\n" << tests << "\n--\n" << g.reason;
  EXPECT_EQ(g.reward, right ? 1.0 : 0.0);
  EXPECT_EQ(g.status, Grade::Status::kParsed) << code << "\n" << g.reason;
}

TEST(RewardCode, AnswersAndTestsOfManyForms) {
  struct Case {
    const char *code, *tests;
  };
  for (
      auto [code, tests] : std::initializer_list<Case>{
          {"def f(x): return x*x", "assert f(2) == 4\nassert f(-3) == 9, 'negative'"},
          {"print('hello')\ndef f(x):\n  print(x)\n  return x*x", "assert f(2) == 4"},
          {"def f(x): return x*x", "def check(candidate):\n  assert candidate(3) == 9\ncheck(f)"},
          {"def f(*, a, b=2): return a + b", "assert f(a=1) == 3 and f(a=1, b=5) == 6"},
          {"def f(): return (1, 2.5, 'a', None, True, {1}, {'k': [1, (2,)]}, b'x', 1j, float('inf'), range(3))",
           "assert f() == (1, 2.5, 'a', None, True, {1}, {'k': [1, (2,)]}, b'x', 1j, float('inf'), range(3))"},
          {"def f(n): return 7 ** n", "assert f(3000) == 7 ** 3000"},
          {"def f(n):\n  for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and sum(f(4)) == 6"},
          {"def f(x):\n  if x < 0: raise ValueError('negative')\n  return x",
           "try:\n  f(-1)\n  assert False\nexcept ValueError as e:\n  assert 'neg' in str(e)\nassert f(1) == 1"},
          {"class Bad(ValueError): pass\ndef f(x): raise Bad('x')", "try:\n  f(1)\n  assert False\nexcept Bad: pass"},
          {"class Stack:\n  def __init__(self): self.v = []\n  def push(self, x): self.v.append(x)\n"
           "  def pop(self): return self.v.pop()\n  def __len__(self): return len(self.v)",
           "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and len(s) == 1 and s.v == [1]\n"
           "assert isinstance(s, Stack)"},
          {"class P:\n  def __init__(self, x): self.x = x\n  def __add__(self, o): return P(self.x + o.x)",
           "assert P(1) + P(2) == P(3) and not P(1) == P(2)"},
          {"def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]"},
          {"def total(n): return 0 if n is None else n.value + total(n.left) + total(n.right)",
           "class Node:\n  def __init__(self, value, left=None, right=None):\n"
           "    self.value, self.left, self.right = value, left, right\nassert total(Node(1, Node(2), Node(3))) == 6"},
          {"import math\ndef f(x): return math.pi * x", "assert abs(f(1) - math.pi) < 1e-9"},
          {"from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab') == {'a': 2, 'b': 1}"},
          {"def f(x): return x",
           "import unittest\nclass T(unittest.TestCase):\n"
           "  def test(self): self.assertEqual(f(2), 2)\nunittest.main()"},
          {"import sys\ndef f(x):\n  print(x, file=sys.stderr, flush=True)\n  return x", "assert f(4) == 4"},
          {"import threading\ndef f(x):\n  out = []\n  t = threading.Thread(target=lambda: out.append(x))\n  t.start()\n"
           "  t.join()\n  return out[0]",
           "assert f(4) == 4"},
          {"import tempfile, os\ndef f(x):\n  with tempfile.NamedTemporaryFile('w+') as t:\n    t.write(x)\n    t.seek(0)\n"
           "    return t.read()",
           "assert f('abc') == 'abc'"}})
    expect(true, code, tests);
}

TEST(RewardCode, WrongAnswersAreWrong) {
  expect(false, "def f(x): return 5", kTest);
  expect(false, "def g(x): return 4", kTest);
  expect(false, "def f(x): return", kTest);
  expect(false, "def f(x) return 4", kTest);
  expect(false, "def f(x): return 1 / 0", kTest);
  expect(false, "def f(x): return f(x)", kTest);
  expect(false, "def f(x): return '4'", kTest);
  expect(false, "def f(x):\n  r = []\n  for i in range(100000): r = [r]\n  return r", kTest);
  expect(false, "def f(x): return [0] * 10**12", kTest);
}

TEST(RewardCode, AFailedTestIsNamedByWhatItSays) {
  EXPECT_EQ(run(kSquare, "assert f(2) == 5").reason, "a test fails");
  EXPECT_EQ(run(kSquare, "assert f(2) == 5, 'two'").reason, "a test fails two");
}

TEST(RewardCode, NoWayToEndEarnsAReward) {
  for (const char* exit : {"import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "quit()", "exit(0)",
                           "import os; os.abort()", "import os; os.kill(os.getpid(), 9)", "raise KeyboardInterrupt",
                           "import atexit, os; atexit.register(os._exit, 0)", "raise StopIteration",
                           "import os; os.execv('/bin/true', ['true'])", "import ctypes; ctypes.string_at(0)"}) {
    expect(false, std::string(exit) + "\ndef f(x): return 5", kTest);
    expect(false, "def f(x):\n  " + std::string(exit) + "\n  return 5", kTest);
    expect(false, "def f(x):\n  " + std::string(exit) + "\n  return 5",
           "assert all(map(lambda c: f(c[0]) == c[1], [(2, 4)]))");
  }
  expect(false, "class S(StopIteration): pass\ndef f(x): raise S", "assert all(map(lambda x: f(x) == 4, [2]))");
  expect(false, "def f(x): return 5\n'''", kTest);
  expect(false, "def f(x): return 5\nif True: (", kTest);
}

TEST(RewardCode, NoObjectDecidesAComparison) {
  const std::string equal =
      "class E:\n  def __eq__(self, o): return True\n  def __ne__(self, o): return False\n  def __lt__(self, o): return True\n"
      "  def __gt__(self, o): return True\n  def __bool__(self): return True\n  def __len__(self): return 4\n"
      "  def __contains__(self, o): return True\n  __hash__ = None\ndef f(x): return E()\n";
  for (const char* test : {"assert f(2) == 4", "assert 4 == f(2)", "assert f(2) != 5", "assert f(2) < 9",
                           "assert f(2) in [4, 5]", "assert [f(2)] == [4]", "assert {'a': f(2)} == {'a': 4}",
                           "assert not f(2) != 4", "assert isinstance(f(2), int)"})
    expect(false, equal, test);
  expect(false, "class I(int):\n  def __eq__(self, o): return True\n  __hash__ = int.__hash__\ndef f(x): return I(7)",
         kTest);
  expect(false, "class L(list):\n  def __eq__(self, o): return True\ndef f(x): return L([7])", "assert f(2) == [4]");
  expect(false, "class S(str):\n  def __eq__(self, o): return True\ndef f(x): return S('7')", "assert f(2) == '4'");
}

TEST(RewardCode, ObjectsDoNotCalculateWithValues) {
  const std::string close =
      "class E:\n  def __sub__(self, o): return self.result\n  def __abs__(self): return 0.0\n"
      "  __add__ = __mul__ = __rsub__ = __sub__\n";
  for (const char* result : {"E.result = 0.0", "E.result = E()"})
    for (const char* test : {"assert abs(f(2) - 4.5) < 1e-6", "assert abs(4.5 - f(2)) < 1e-6", "assert not f(2) - 4",
                             "import unittest\nclass T(unittest.TestCase):\n"
                             "  def test(self): self.assertAlmostEqual(f(2), 4.5)\nunittest.main()"})
      expect(false, close + result + "\ndef f(x): return E()", test);
  expect(true,
         "class V:\n  def __init__(self, x): self.x = x\n  def __sub__(self, o): return V(self.x - o.x)\n"
         "  def __abs__(self): return abs(self.x)",
         "assert abs(V(3) - V(5)) == 2");
}

TEST(RewardCode, TestsThatRunNothingAreAnError) {
  for (const char* tests :
       {"def check(candidate):\n  assert candidate(2) == 4", "METADATA = {'author': 'x'}\ndef t(): assert 0",
        "'''Tests.'''\nimport math\nclass T:\n  def test(self): assert f(2) == 4", "pass", "# none"})
    EXPECT_EQ(run(kSquare, tests).status, Grade::Status::kError) << tests;
  const std::string test_case =
      "import unittest\nclass T(unittest.TestCase):\n  def test(self):\n    with self.subTest(): self.assertEqual(f(2), 4)\n";
  for (const char* end : {"unittest.main()", "unittest.main(exit=False)",
                          "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))"}) {
    expect(true, kSquare, test_case + end);
    expect(false, "def f(x): return 5", test_case + end);
  }
}

TEST(RewardCode, PatchesStayInTheAnswersProcess) {
  for (const char* patch :
       {"import builtins\nbuiltins.AssertionError = ValueError", "import builtins\nbuiltins.len = lambda x: 4",
        "def len(x): return 4", "len = lambda x: 4", "import builtins\nbuiltins.__dict__['abs'] = lambda x: 4",
        "__builtins__ = {'len': lambda x: 4}", "import math\nmath.isclose = lambda *a: True",
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None",
        "import sys\nsys.settrace(lambda *a: None)"}) {
    const std::string code = std::string(patch) + "\ndef f(x): return [1]\n";
    expect(false, code, "assert len(f(2)) == 4");
    expect(false, code, "import math\nassert math.isclose(abs(-3), 4)\nf(2)");
    expect(
        false, code,
        "import unittest\nclass T(unittest.TestCase):\n  def test(self): self.assertEqual(f(2), 4)\nunittest.main()");
  }
}

TEST(RewardCode, TheTestsCannotBeRead) {
  // The text that is wanted is made where it is compared: no constant and no variable of the hunt holds it.
  const std::string hunt = "\ndef f(x): return 4 if any(('f(2) ' + chr(61) * 2 + ' 4') in s for s in seen()) else 5\n";
  for (
      const char* seen :
      {"import sys\ndef seen(): return sys.orig_argv + sys.argv",
       "import sys\ndef seen():\n  frame = sys._getframe()\n  while frame:\n    yield str(frame.f_globals)\n"
       "    yield str(frame.f_locals)\n    frame = frame.f_back",
       "import gc\ndef seen():\n  for o in gc.get_objects():\n    try: yield str(o)\n    except Exception: pass",
       "import os\ndef seen():\n  for p in os.listdir('/proc'):\n    for name in ('cmdline', 'environ'):\n"
       "      try: yield open(f'/proc/{p}/{name}', errors='replace').read()\n      except OSError: pass\n",
       "import os\ndef seen():\n  for p in (os.getppid(), os.getpid() + 1, os.getpid() - 1):\n    try:\n"
       "      for line in open(f'/proc/{p}/maps'):\n        a, b = line.split()[0].split('-')\n"
       "        m = open(f'/proc/{p}/mem', 'rb')\n        m.seek(int(a, 16))\n"
       "        yield m.read(int(b, 16) - int(a, 16)).decode(errors='replace')\n    except (OSError, ValueError): pass\n",
       "import os\ndef seen():\n  for d in range(64):\n    try:\n      os.set_blocking(d, False)\n      yield os.read(d, 4096).decode(errors='replace')\n"
       "    except OSError: pass\n"}) {
    const Grade g = run(std::string(seen) + "\nseen = (lambda look: lambda: list(look() or []))(seen)" + hunt, kTest);
    EXPECT_FALSE(g.correct) << seen << "\n" << g.reason;
  }
}

TEST(RewardCode, ForgedMessagesAreOnlyValues) {
  // The answer finds its pipe to the judge and says whatever it likes there.
  const std::string out =
      "import sys\nframe = sys._getframe()\nwhile '_out' not in frame.f_globals: frame = frame.f_back\n"
      "out = frame.f_globals['_out']\ndef say(line):\n  out.write(line + '\\n')\n  out.flush()\n";
  for (const char* line : {R"({"value": true})", R"({"value": [["f", {"value": {"i": "4"}}]]})",
                           R"({"correct": true, "status": "parsed"})",
                           R"({"value": [["__builtins__", {"value": {"d": [["AssertionError", {"o": 0}]]}}]]})",
                           R"({"value": [["f", {"module": "unittest.mock"}]]})",
                           R"({"value": [["f", {"exception": ["ValueError"]}]]})", R"({"value": {"peer": 0}})",
                           R"({"error": ["SystemExit"], "text": "0"})", R"({"op": "call", "of": 0, "args": []})",
                           R"({"value": {"o": "x"}})", "[]", "x", R"({"error": ["StopIteration"]})"}) {
    expect(false, out + "say('" + line + "')\ndef f(x): return 5", kTest);
    expect(false, out + "def f(x):\n  say('" + line + "')\n  return 5", kTest);
    expect(false, out + "def f(x):\n  say('" + line + "')\n  return 5", "assert all(map(lambda x: f(x) == 4, [2]))");
  }
}

TEST(RewardCode, TheSandboxHolds) {
  if (!sandbox_gaps().empty()) GTEST_SKIP() << sandbox_gaps();
  const auto denied = [](const std::string& action, const std::string& imports) {
    expect(true,
           imports + "\ndef f():\n  try:\n    " + action +
               "\n  except (OSError, RuntimeError) as e: return type(e).__name__\n"
               "  return 'done'",
           "assert f() != 'done', f()");
  };
  denied("socket.socket()", "import socket");
  denied("socket.create_connection(('127.0.0.1', 80), 1)", "import socket");
  denied("os.fork()", "import os");
  denied("subprocess.run(['/bin/true'])", "import subprocess");
  denied("os.kill(os.getppid(), 0)", "import os");
  denied("os.kill(1, 0)", "import os");
  denied("open('/etc/passwd').read()", "");
  denied("os.listdir('/')", "import os");
  denied("os.listdir('/proc')", "import os");
  denied("open('/proc/self/status').read()", "");
  denied("open('/mantissa-escape', 'w')", "");
  denied("os.mkdir('../escape')", "import os");
  denied("os.setsid()", "import os");
  denied("open('big', 'wb').write(b'x' * (64 << 20))", "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)");
  expect(true, "def f():\n  with open('own', 'w') as o: o.write('x')\n  return open('own').read()",
         "assert f() == 'x'");
  // Its two ends of the conversation, and nothing of ours.
  expect(true,
         "import os\ndef open_(d):\n  try: return bool(os.fstat(d))\n  except OSError: return False\n"
         "def f(): return sum(open_(d) for d in range(3, 100))",
         "assert f() <= 6, f()");
  expect(true, "import os\ndef f(): return 'MANTISSA_TEST_SECRET' in os.environ", "assert not f()");
}

TEST(RewardCode, TimeAndMemoryAreBounded) {
  const RewardConfig quick{.kind = "code", .format = "free", .boxed_only = false, .command = "", .timeout_s = 3};
  for (const char* code : {"while True: pass", "def f(x):\n  while True: pass", "import time\ntime.sleep(100)"}) {
    const Grade g = grade(quick, "```\n" + std::string(code) + "\n```", kTest);
    EXPECT_EQ(g.status, Grade::Status::kParsed) << "wrong, and not without a grade: " << code;
    EXPECT_EQ(g.reason, "killed after 3 s");
    EXPECT_FALSE(g.correct);
  }
  RewardConfig none = quick;
  none.timeout_s = 1e-6;
  EXPECT_EQ(grade(none, "```\n" + kSquare + "```", kTest).status, Grade::Status::kTimeout) << "it never ran";
  expect(false, "x = bytearray(1 << 33)\ndef f(x): return 4", kTest);
}

TEST(RewardCode, TestsThatHangOrDieAreNotTheAnswersDoing) {
  RewardConfig quick = kCode;
  quick.timeout_s = 3;
  const auto status = [&](const std::string& code, const std::string& tests, const RewardConfig& config) {
    const Grade g = grade(config, "```\n" + code + "\n```", tests);
    EXPECT_FALSE(g.correct) << tests;
    return g.status;
  };
  using S = Grade::Status;
  EXPECT_EQ(status(kSquare, kTest + "\nwhile True: pass", quick), S::kTimeout);
  EXPECT_EQ(status("def f(g): return g()", "def g():\n  while True: pass\nf(g)", quick), S::kTimeout)
      << "called by the answer";
  EXPECT_EQ(status("def f(g): g()\n", "def g(): return 1\nf(g)\nimport time\ntime.sleep(100)", quick), S::kTimeout);
  EXPECT_EQ(status("def f(g):\n  g()\n  while True: pass", "f(lambda: 1)", quick), S::kParsed);
  EXPECT_EQ(status("def f():\n  while True: yield 1", "for x in f(): pass", quick), S::kParsed) << "mostly the answer";
  for (const char* end : {"import os\nos._exit(1)", "import os\nos._exit(0)", "import ctypes\nctypes.string_at(0)",
                          "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"})
    EXPECT_EQ(status(kSquare, kTest + "\n" + end, kCode), S::kError) << end;
}

TEST(RewardCode, TestsMayHaveThreadsAndLeaveProcessesBehind) {
  expect(true, "def f(x): return x + 1",
         "import threading\nout = {}\ndef ask(i): out[i] = f(i)\n"
         "threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]\n"
         "for t in threads: t.start()\nfor t in threads: t.join()\nassert out == {i: i + 1 for i in range(40)}");
  const auto start = std::chrono::steady_clock::now();
  expect(true, "def f(x): return x + 1",
         "import os, time\nif os.fork() == 0:\n  time.sleep(40)\n  os._exit(0)\nassert f(1) == 2");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(RewardCode, AnAnswerThatEndsProcessesIsWrong) {
  for (const char* end : {"os._exit(0)", "os.kill(os.getpid(), 9)", "os._exit(1)", "os.closerange(0, 100)",
                          "[os.write(d, b'0') for d in range(3, 100)]"}) {
    expect(false, std::string("import os\ndef f(x):\n  ") + end, kTest);
    expect(false, std::string("import os\ndef stop():\n  ") + end + "\nstop()", kTest);
  }
}

TEST(RewardCode, BrokenTestsAreAnErrorAndNotTheAnswers) {
  EXPECT_EQ(run(kSquare, "assert f(2) ==").status, Grade::Status::kError);
  EXPECT_EQ(grade(kCode, "def f(x): return 4", kTest).status, Grade::Status::kNoAnswer);
}

TEST(RewardCode, FencesMayBeIndented) {
  for (const std::string& blanks : Strings{"", "  ", "    ", "\t"})
    for (const std::string& mark : Strings{"```python", "```", "```py"}) {
      const std::string response = "- one\n\n" + blanks + mark + "\n" + blanks + "def f(x):\n" + blanks +
                                   "    return x*x\n" + blanks + "```\n\n- two\n";
      const Grade g = grade(kCode, response, kTest);
      EXPECT_TRUE(g.correct) << response << g.reason;
      EXPECT_EQ(g.extracted, "def f(x):\n    return x*x\n");
    }
}

TEST(RewardCode, RunsOnManyThreadsAndLeavesNothing) {
  const TempDir dir;
  const char* before = ::getenv("TMPDIR");
  const std::string restored = before ? before : "";
  ::setenv("TMPDIR", (dir / "").c_str(), 1);
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([i] {
      for (int k = 0; k < 3; ++k) {
        const bool right = (i + k) % 2 == 0;
        EXPECT_EQ(run(right ? kSquare : "def f(x): return 5", kTest).correct, right);
      }
    });
  threads.clear();
  run("import os\nos.mkdir('closed')\nopen('closed/x', 'w').close()\nos.mkdir('moved-1')\nos.chmod('closed', 0)\n"
      "for i in range(2000):\n  os.mkdir('deep')\n  os.chdir('deep')\n" +
          kSquare,
      kTest);
  EXPECT_TRUE(std::filesystem::is_empty(dir / ""));
  before ? ::setenv("TMPDIR", restored.c_str(), 1) : ::unsetenv("TMPDIR");
}

}  // namespace
}  // namespace mantissa
