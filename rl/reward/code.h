// Python answers and their tests. The tests run in one process, the judge, the answer in another, in a sandbox:
//
//   trainer -- tests --> judge (python3) -- calls, arguments --> answer (python3, sandbox)
//           <- verdict -                 <- values, exceptions -
//
// Names that the answer defines are proxies in the judge: a call goes over a pipe, and what comes back becomes a value
// of the judge's own types. So `assert f(2) == 4` compares two integers of the judge. The answer never sees the tests,
// only the arguments of calls; it has no descriptor but the two pipes of that conversation, and the verdict goes
// another way. An answer gains nothing by ending its process in some way, by patching builtins, by an __eq__ that says
// True, by atexit or frames, nor by reading its own source or that of the tests: the judge goes by values, and where
// the process is gone, the test fails. The tests' builtins are never taken from the answer, so a function that it calls
// `len` or `sum` cannot be tested.
//
// What stays open:
//   - values alone decide: an answer may know some outputs by heart, and a test that only asks for truth (`assert
//     f(x)`) is passed by `return True`
//   - objects of the answer's own classes say what they like about themselves, such as what they contain; compared with
//     a value they are unequal, calculating with one is an error, with each other they are compared by their attributes
//   - arguments are copies: tests of what a function changes in place fail
//   - coroutines of the answer are not awaited: tests of `async def` fail
//   - doctests and other runners that neither raise nor exit where a test fails (those of unittest are watched)
//   - how many files of 16 MiB it writes into its folder while it runs
//   - functions and instances of the tests' own classes that are passed as arguments can be called, seen and changed
//     in their public attributes
//   - what the sandbox cannot have here: see sandbox_gaps
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mantissa {

struct CodeVerdict {
  enum class End {
    kJudged,   // also where the time was over, or the judge killed, while it waited for the answer: that is wrong then
    kTimeout,  // the time was over while the tests were at work, or before anything ran
    kError,    // no python3, tests that are no Python, run nothing or end the judge; `reason` says which
  };
  End end = End::kError;
  bool correct = false;
  std::string reason;
};

/// Never throws. Safe on any number of threads. `seconds` for both processes together, `memory_mb` for each.
CodeVerdict judge_python(std::string_view code, std::string_view tests, double seconds, int64_t memory_mb);

/// What the sandbox of answers cannot have on this machine, as a sentence; "" for nothing. Where there is no python3 at
/// all, it says that.
std::string sandbox_gaps();

}  // namespace mantissa
