#include "rl/reward/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "rl/reward/channel.h"

#ifdef MANTISSA_SECCOMP
#include <seccomp.h>
#endif

namespace mantissa {
namespace {

// Landlock's interface, versions 1 to 6: <linux/landlock.h> of older systems lacks parts of it.
constexpr long kCreateRuleset = 444, kAddRule = 445, kRestrictSelf = 446;
struct Ruleset {
  uint64_t files, network, scopes;
};
struct __attribute__((packed)) PathRule {
  uint64_t access;
  int32_t parent;
};
constexpr uint64_t kExecute = 1, kWrite = 2, kRead = 4, kList = 8;
constexpr int kPathBeneath = 1;

uint64_t file_rights(long version) {
  const int bits = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
  return (uint64_t(1) << bits) - 1;
}

void allow(int ruleset, const std::string& path, uint64_t rights) {
  const Fd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (fd.get() < 0) return;  // not on this machine
  PathRule rule{rights, fd.get()};
  if (::syscall(kAddRule, ruleset, kPathBeneath, &rule, 0) == 0) return;
  rule.access &= kExecute | kWrite | kRead;  // a file has no other rights
  ::syscall(kAddRule, ruleset, kPathBeneath, &rule, 0);
}

}  // namespace

Sandbox::Sandbox(std::vector<std::string> readable) : readable_(std::move(readable)) {
  for (const char* path : {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime",
                           "/usr/share/zoneinfo", "/dev/urandom", "/dev/zero"})
    readable_.emplace_back(path);
  landlock_ = std::max(0L, ::syscall(kCreateRuleset, nullptr, 0, 1));
  build_filter();
  const auto lacks = [&](const char* what) { (gaps_ += gaps_.empty() ? "" : "; ") += what; };
  if (filter_.empty()) lacks("built without libseccomp: network, processes and signals are open to it");
  if (landlock_ == 0) lacks("no Landlock in this kernel: it can read and write the files of this user");
}

#ifdef MANTISSA_SECCOMP
void Sandbox::build_filter() {
  scmp_filter_ctx context = seccomp_init(SCMP_ACT_ALLOW);
  if (context == nullptr) return;
  bool good = true;
  const auto deny = [&](std::initializer_list<const char*> names, int error = EPERM) {
    for (const char* name : names) {
      const int number = seccomp_syscall_resolve_name(name);
      if (number >= 0) good = seccomp_rule_add(context, SCMP_ACT_ERRNO(uint32_t(error)), number, 0) == 0 && good;
    }
  };
  deny({"socket", "connect", "bind", "listen", "accept", "accept4"});
  // Threads are its own; clone3 hides its flags from a filter, and libraries go back to clone without it.
  good = seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                          SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)) == 0 &&
         good;
  deny({"clone3"}, ENOSYS);
  deny({"fork", "vfork", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open",
        "pidfd_send_signal", "pidfd_getfd", "setpgid", "setsid", "ptrace", "process_vm_readv", "process_vm_writev",
        "process_madvise", "kcmp", "setpriority", "ioprio_set"});
  good = seccomp_rule_add(context, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 1, SCMP_A0(SCMP_CMP_NE, 0)) == 0 && good;
  deny({"mount",
        "umount2",
        "pivot_root",
        "chroot",
        "unshare",
        "setns",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "open_by_handle_at",
        "name_to_handle_at",
        "mknod",
        "mknodat",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "keyctl",
        "add_key",
        "request_key",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "quotactl",
        "syslog",
        "settimeofday",
        "clock_settime",
        "adjtimex",
        "clock_adjtime",
        "sethostname",
        "setdomainname",
        "personality",
        "iopl",
        "ioperm",
        "shmget",
        "shmat",
        "semget",
        "msgget",
        "mq_open"});
  Channel program(Channel::Kind::kPipe);  // it is far smaller than a pipe
  if (good && seccomp_export_bpf(context, program.in.get()) == 0) {
    program.in.close();
    Instruction instruction;
    while (::read(program.out.get(), &instruction, sizeof instruction) == sizeof instruction)
      filter_.push_back(instruction);
  }
  seccomp_release(context);
}
#else
void Sandbox::build_filter() {}
#endif

int Sandbox::make_ruleset(const std::string& folder) const {
  if (landlock_ == 0) return -1;
  const Ruleset all{file_rights(landlock_), landlock_ >= 4 ? 3u : 0u, landlock_ >= 6 ? 3u : 0u};
  const size_t size = landlock_ >= 6 ? 24 : landlock_ >= 4 ? 16 : 8;
  const int ruleset = int(::syscall(kCreateRuleset, &all, size, 0));
  if (ruleset < 0) return -1;
  for (const std::string& path : readable_) allow(ruleset, path, kExecute | kRead | kList);
  allow(ruleset, "/dev/null", kRead | kWrite);
  if (!folder.empty()) allow(ruleset, folder, file_rights(landlock_) & ~kExecute);
  return ruleset;
}

int Sandbox::enter(int ruleset) const {
  const auto limit = [](auto what, rlim_t most) {
    const rlimit value{most, most};
    ::setrlimit(what, &value);
  };
  limit(RLIMIT_FSIZE, rlim_t(16) << 20);
  limit(RLIMIT_NOFILE, 64);
  limit(RLIMIT_MEMLOCK, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  ::syscall(SYS_capset, &header, none);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  if (ruleset >= 0 && ::syscall(kRestrictSelf, ruleset, 0) != 0) return errno;
  if (!filter_.empty()) {
    struct {
      unsigned short length;
      const Instruction* code;
    } program{static_cast<unsigned short>(filter_.size()), filter_.data()};
    if (::prctl(PR_SET_SECCOMP, 2, &program, 0, 0) != 0) return errno;
  }
  return 0;
}

}  // namespace mantissa
