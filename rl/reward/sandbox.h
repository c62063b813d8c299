// What code that nobody has read may do: compute, use threads, read the libraries it needs and write into one folder.
//
//   rlimits    size of files, open files, locked memory (address space is ProcessStart's, time its owner's)
//   seccomp    no network, no other processes, no signals to others, no tracing, mounts, keys or kernel interfaces; its
//              filter is built by libseccomp, where the build has it
//   Landlock   no file but those named, no TCP, where the kernel has it
//   and        no capabilities, no new privileges
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mantissa {

class Sandbox {
 public:
  /// `readable`: files and folders that may be read and run. Built once, used for any number of processes.
  explicit Sandbox(std::vector<std::string> readable);

  /// What cannot be had here, as a sentence: "no Landlock: files outside its folder can be read"; "" for nothing.
  const std::string& gaps() const { return gaps_; }
  bool hides_files() const { return landlock_ > 0; }

  /// The files of one process, which may write into `folder`: a descriptor for enter(); -1 without Landlock.
  int make_ruleset(const std::string& folder) const;
  /// Enters the sandbox, by system calls alone: for a child before exec. 0, or the errno of what failed.
  int enter(int ruleset) const;

 private:
  struct Instruction {  // of a BPF program
    uint16_t code;
    uint8_t if_true, if_false;
    uint32_t k;
  };
  void build_filter();

  std::vector<std::string> readable_;
  std::vector<Instruction> filter_;
  long landlock_ = 0;  // version; 0: none
  std::string gaps_;
};

}  // namespace mantissa
