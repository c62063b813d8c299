// Ranks on GPUs: NCCL for tensors, the mesh's sockets for host bytes. The library is loaded at run time (MANTISSA_NCCL
// names its folder; else the system's, or the one that PyTorch's packages bring); what is used of its interface, which
// is the same in all versions since 2.18, is declared here, so that a build needs nothing of it.
//
// Communicators are non-blocking: every call returns at once and is asked for until it is done, so that a lost rank is
// an error here and not a process that hangs. All collectives, those of some ranks among them, run on one stream of
// their own, each after what the caller's stream held; the caller's stream waits for an event behind it.
#include "core/comm.h"

#include <dlfcn.h>

#include <chrono>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <filesystem>
#include <thread>

#include "core/comm/mesh.h"
#include "cuda/backend.h"
#include "cuda/device.h"

namespace mantissa::cuda {
namespace {

using namespace std::chrono_literals;

constexpr int kOldest = 21800;
constexpr auto kStartTime = 120s, kEndTime = 5s;
constexpr int kEvents = 64;
constexpr size_t kWarmUpBytes = size_t(32) << 20;

// NCCL's interface, as far as it is used here.
enum Result : int { kSuccess = 0, kRemoteError = 6, kInProgress = 7 };
enum Type : int { kBytes = 0, kInt32 = 2, kFloat16 = 6, kFloat32 = 7, kFloat64 = 8, kBfloat16 = 9, kNone = -1 };
enum Op : int { kSum = 0, kMax = 2 };
struct UniqueId {
  char bytes[128];
};
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef, version = kOldest;
  int blocking = 0;
  int cga_cluster_size = INT_MIN, min_ctas = INT_MIN, max_ctas = INT_MIN;  // INT_MIN, null: the library's choice
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};
using Handle = struct ncclComm*;

/// The loaded library, or why there is none.
struct Library {
  Result (*get_version)(int*) = nullptr;
  Result (*get_unique_id)(UniqueId*) = nullptr;
  Result (*init)(Handle*, int, UniqueId, int, Config*) = nullptr;
  Result (*finalize)(Handle) = nullptr;
  Result (*destroy)(Handle) = nullptr;
  Result (*abort)(Handle) = nullptr;
  Result (*async_error)(Handle, Result*) = nullptr;
  const char* (*error_string)(Result) = nullptr;
  const char* (*last_error)(Handle) = nullptr;
  Result (*all_reduce)(const void*, void*, size_t, Type, Op, Handle, cudaStream_t) = nullptr;
  Result (*reduce_scatter)(const void*, void*, size_t, Type, Op, Handle, cudaStream_t) = nullptr;
  Result (*all_gather)(const void*, void*, size_t, Type, Handle, cudaStream_t) = nullptr;
  Result (*broadcast)(const void*, void*, size_t, Type, int, Handle, cudaStream_t) = nullptr;
  Result (*send)(const void*, size_t, Type, int, Handle, cudaStream_t) = nullptr;
  Result (*receive)(void*, size_t, Type, int, Handle, cudaStream_t) = nullptr;
  Result (*group_start)() = nullptr;
  Result (*group_end)() = nullptr;
  int version = 0;
  std::string path, missing;

  static Library& get() {
    static Library library;
    return library;
  }

 private:
  Library();
};

/// Folders that may hold the library, best first.
std::vector<std::string> library_folders() {
  if (const char* folder = std::getenv("MANTISSA_NCCL")) return {folder};
  std::vector<std::string> folders = {"", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64",
                                      "/usr/local/cuda/lib64"};
  // PyTorch's packages, of an environment in use or of the system's Python.
  std::vector<std::filesystem::path> prefixes = {"/usr/local/lib", "/usr/lib", "/opt/conda/lib"};
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (const char* prefix = std::getenv(name))
      prefixes.insert(prefixes.begin(), std::filesystem::path(prefix) / "lib");
  for (const std::filesystem::path& prefix : prefixes) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(prefix, error)) {
      if (!entry.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"})
        folders.push_back((entry.path() / packages / "nvidia/nccl/lib").string());
    }
  }
  return folders;
}

Library::Library() {
  void* library = nullptr;
  for (const std::string& folder : library_folders()) {
    path = (folder.empty() ? "" : folder + "/") + "libnccl.so.2";
    if ((library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL))) break;
  }
  if (!library) {
    missing = "libnccl.so.2 was not found (MANTISSA_NCCL names its folder)";
    return;
  }
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (!function && missing.empty()) missing = str(path, " has no function ", name);
  };
  find(get_version, "ncclGetVersion");
  find(get_unique_id, "ncclGetUniqueId");
  find(init, "ncclCommInitRankConfig");
  find(finalize, "ncclCommFinalize");
  find(destroy, "ncclCommDestroy");
  find(abort, "ncclCommAbort");
  find(async_error, "ncclCommGetAsyncError");
  find(error_string, "ncclGetErrorString");
  find(last_error, "ncclGetLastError");
  find(all_reduce, "ncclAllReduce");
  find(reduce_scatter, "ncclReduceScatter");
  find(all_gather, "ncclAllGather");
  find(broadcast, "ncclBroadcast");
  find(send, "ncclSend");
  find(receive, "ncclRecv");
  find(group_start, "ncclGroupStart");
  find(group_end, "ncclGroupEnd");
  if (!get_version || get_version(&version) != kSuccess) version = 0;
  if (version < kOldest) missing = str(path, " is version ", version, ", ", kOldest, " or later is needed");
}

std::string version_text(int version) {
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

Type type_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return kFloat32;
    case Dtype::kF16:
      return kFloat16;
    case Dtype::kBF16:
      return kBfloat16;
    case Dtype::kF64:
      return kFloat64;
    case Dtype::kI32:
      return kInt32;
    case Dtype::kU8:
      break;
  }
  return kNone;
}

/// The stream of a process's collectives and the events behind them: of all its comms, so that their collectives run
/// one after the other, in the order in which all ranks begin them, and tickets count them all.
struct Lane {
  Lane() {
    int lowest = 0, highest = 0;
    MANTISSA_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    MANTISSA_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest));
    MANTISSA_CUDA(cudaEventCreateWithFlags(&before, cudaEventDisableTiming));
    for (cudaEvent_t& event : after) MANTISSA_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~Lane() {
    for (cudaEvent_t event : after) cudaEventDestroy(event);
    cudaEventDestroy(before);
    cudaStreamDestroy(stream);
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  struct Held {
    Comm::Ticket ticket;
    std::vector<Tensor> tensors;
  };
  cudaStream_t stream = nullptr;
  cudaEvent_t before = nullptr, after[kEvents] = {};
  Comm::Ticket tickets = 0;
  std::deque<Held> held;  // memory that a collective on its way reads or writes
};

class NcclComm : public Comm {
 public:
  NcclComm(std::shared_ptr<Mesh> mesh, Mesh::Group group, std::shared_ptr<Lane> lane)
      : Comm(group.own, int(group.ranks.size()), mesh->activity()),
        mesh_(std::move(mesh)),
        group_(std::move(group)),
        lane_(std::move(lane)) {
    if (size() == 1) return;  // then nothing is asked of it
    check(library_.missing.empty(), "several GPUs need NCCL: ", library_.missing);
    const std::vector<std::string> versions = mesh_->gather(group_, version_text(library_.version));
    for (int r = 1; r < size(); ++r)
      check(versions[size_t(r)] == versions[0], "[nccl] ", mesh_->name(group_.ranks[size_t(r)]), " has version ",
            versions[size_t(r)], ", ", mesh_->name(group_.ranks[0]), " ", versions[0],
            ": all ranks need the same (MANTISSA_NCCL names its folder)");
    const bool whole = !lane_;
    if (whole) lane_ = std::make_shared<Lane>();

    UniqueId id{};
    if (rank() == 0) expect(library_.get_unique_id(&id), "ncclGetUniqueId");
    const std::string bytes = mesh_->broadcast(group_, {id.bytes, sizeof id.bytes}, 0);
    std::memcpy(id.bytes, bytes.data(), sizeof id.bytes);
    Config config;
    const Result begun = library_.init(&handle_, size(), id, rank(), &config);
    check(taken(begun), "[nccl] ncclCommInitRankConfig: ", text_of(begun));
    settle("start", deadline_in(kStartTime));
    warm_up(!whole);  // rows of ranks alone exchange rows of tensors
  }

  ~NcclComm() override {
    if (!handle_) return;
    if (std::uncaught_exceptions() > 0) {
      library_.abort(handle_);
    } else {
      library_.finalize(handle_);
      Result state = kInProgress;
      for (const Deadline end = deadline_in(kEndTime); std::chrono::steady_clock::now() < end &&
                                                       library_.async_error(handle_, &state) == kSuccess &&
                                                       state == kInProgress;)
        std::this_thread::sleep_for(1ms);
      state == kSuccess ? library_.destroy(handle_) : library_.abort(handle_);
    }
  }

  std::string description() const override {
    return str(size(), " processes, NCCL ", version_text(library_.version), " (", library_.path, ")");
  }

 private:
  Ticket do_all_reduce(Exec& exec, const Tensor& t, Reduce op, Order order) override {
    return launch(exec, "all_reduce", {t}, order, [&] {
      return library_.all_reduce(t.raw(), t.raw(), size_t(t.numel()), type_of(t.dtype()),
                                 op == Reduce::kSum ? kSum : kMax, handle_, lane_->stream);
    });
  }
  Ticket do_reduce_scatter(Exec& exec, const std::vector<Pair>& pairs, Order order) override {
    return launch(exec, "reduce_scatter", tensors_of(pairs), order, [&] {
      return grouped(pairs, [&](const Pair& pair) {
        return library_.reduce_scatter(pair.in.raw(), pair.out.raw(), size_t(pair.out.numel()),
                                       type_of(pair.in.dtype()), kSum, handle_, lane_->stream);
      });
    });
  }
  Ticket do_all_gather(Exec& exec, const std::vector<Pair>& pairs, Order order) override {
    return launch(exec, "all_gather", tensors_of(pairs), order, [&] {
      return grouped(pairs, [&](const Pair& pair) {
        return library_.all_gather(pair.in.raw(), pair.out.raw(), size_t(pair.in.numel()), type_of(pair.in.dtype()),
                                   handle_, lane_->stream);
      });
    });
  }
  Ticket do_broadcast(Exec& exec, const Tensor& t, int root, Order order) override {
    return launch(exec, "broadcast", {t}, order, [&] {
      return library_.broadcast(t.raw(), t.raw(), size_t(t.numel()), type_of(t.dtype()), root, handle_, lane_->stream);
    });
  }

  Ticket do_all_to_all(Exec& exec, const Tensor& out, std::span<const int64_t> received, const Tensor& in,
                       std::span<const int64_t> sent, Order order) override {
    const size_t row = size_t(in.size(1)) * size_of(in.dtype());
    return launch(exec, "all_to_all", {out, in}, order, [&] {
      auto *to = static_cast<std::byte*>(out.raw()), *from = static_cast<std::byte*>(in.raw());
      std::vector<Part> parts;
      for (int r = 0; r < size(); ++r) {
        parts.push_back({from, to, size_t(sent[size_t(r)]) * row, size_t(received[size_t(r)]) * row});
        from += parts.back().send, to += parts.back().receive;
      }
      return exchange(parts);
    });
  }

  void do_wait(Exec& exec, Ticket ticket) override {
    // The slot may hold a later ticket's event by now: that one comes after this one.
    MANTISSA_CUDA(cudaStreamWaitEvent(stream(exec), lane_->after[ticket % kEvents], 0));
    while (!lane_->held.empty() && lane_->held.front().ticket <= ticket) lane_->held.pop_front();
  }

  std::vector<std::string> do_gather(std::string_view bytes) override { return mesh_->gather(group_, bytes); }
  std::string do_broadcast_bytes(std::string_view bytes, int root) override {
    return mesh_->broadcast(group_, bytes, root);
  }
  int64_t do_next(int64_t handout) override { return mesh_->next(handout); }
  std::vector<std::string> do_gather_aside(std::string_view bytes) override { return mesh_->gather_aside(bytes); }
  std::unique_ptr<Comm> do_some(const std::vector<int>& ranks) override {
    return std::make_unique<NcclComm>(mesh_, mesh_->some(ranks), lane_);
  }

  /// What goes to a rank and comes from it, in bytes.
  struct Part {
    const std::byte* from;
    std::byte* to;
    size_t send, receive;
  };
  /// Of each rank; the own part is copied.
  Result exchange(const std::vector<Part>& parts) {
    const Part& own = parts[size_t(rank())];
    check(own.send == own.receive, "[all_to_all] rank ", rank(), " sends itself ", own.send, " bytes and receives ",
          own.receive);
    if (own.send > 0)
      MANTISSA_CUDA(cudaMemcpyAsync(own.to, own.from, own.send, cudaMemcpyDeviceToDevice, lane_->stream));
    return grouped(parts, [&](const Part& part) {
      const int r = int(&part - parts.data());
      if (r == rank()) return kSuccess;
      Result result = kSuccess;
      if (part.send > 0) result = library_.send(part.from, part.send, kBytes, r, handle_, lane_->stream);
      if (part.receive > 0 && taken(result))
        result = library_.receive(part.to, part.receive, kBytes, r, handle_, lane_->stream);
      return result;
    });
  }

  static bool taken(Result result) { return result == kSuccess || result == kInProgress; }
  static std::vector<Tensor> tensors_of(const std::vector<Pair>& pairs) {
    std::vector<Tensor> tensors;
    for (const auto& [out, in] : pairs) tensors.insert(tensors.end(), {out, in});
    return tensors;
  }
  /// The calls of all items begin as one, which costs the host what a single one does. The first error counts.
  template <class Items, class Call>
  Result grouped(const Items& items, const Call& call) {
    Result result = library_.group_start();
    for (auto item = items.begin(); item != items.end() && taken(result); ++item) result = call(*item);
    const Result ended = library_.group_end();
    return taken(result) ? ended : result;
  }

  /// The library makes its connections and their buffers at the first use of each: now, before a cache takes the memory
  /// that is free.
  void warm_up(bool pairs) {
    const size_t part = kWarmUpBytes / size_t(size()) / sizeof(float), whole = part * size_t(size());
    float* memory = nullptr;
    MANTISSA_CUDA(cudaMalloc(reinterpret_cast<void**>(&memory), whole * sizeof(float)));
    MANTISSA_CUDA(cudaMemsetAsync(memory, 0, whole * sizeof(float), lane_->stream));
    float* own = memory + part * size_t(rank());
    const auto run = [&](const char* name, Result begun) {
      if (!taken(begun)) fail_call(name, begun);
      settle(name, deadline_in(kStartTime));
    };
    run("all_reduce", library_.all_reduce(memory, memory, whole, kFloat32, kSum, handle_, lane_->stream));
    run("reduce_scatter", library_.reduce_scatter(memory, own, part, kFloat32, kSum, handle_, lane_->stream));
    run("all_gather", library_.all_gather(own, memory, part, kFloat32, handle_, lane_->stream));
    run("broadcast", library_.broadcast(memory, memory, whole, kFloat32, 0, handle_, lane_->stream));
    if (pairs) {
      std::vector<Part> parts{size_t(size())};
      auto* bytes = reinterpret_cast<std::byte*>(memory);
      const size_t half = whole / 2 / size_t(size()) * sizeof(float);
      for (size_t r = 0; r < parts.size(); ++r)
        parts[r] = {bytes + r * half, bytes + (parts.size() + r) * half, half, half};
      run("all_to_all", exchange(parts));
    }
    MANTISSA_CUDA(cudaStreamSynchronize(lane_->stream));
    MANTISSA_CUDA(cudaFree(memory));
  }

  template <class Call>
  Ticket launch(Exec& exec, const char* name, std::vector<Tensor> tensors, Order order, const Call& call) {
    check(!capturing(exec), "[", name, "] a collective cannot be part of a graph");
    MANTISSA_CUDA(cudaEventRecord(lane_->before, stream(exec)));
    MANTISSA_CUDA(cudaStreamWaitEvent(lane_->stream, lane_->before, 0));
    const Result begun = call();
    if (!taken(begun)) fail_call(name, begun);
    settle(name, Deadline::max());
    const Ticket ticket = ++lane_->tickets;
    MANTISSA_CUDA(cudaEventRecord(lane_->after[ticket % kEvents], lane_->stream));
    lane_->held.push_back({ticket, std::move(tensors)});
    if (order == Order::kInStream) do_wait(exec, ticket);
    return ticket;
  }

  /// Waits until the library has taken up the last call.
  void settle(const char* name, Deadline deadline) {
    for (int round = 0;; ++round) {
      Result state = kSuccess;
      expect(library_.async_error(handle_, &state), "ncclCommGetAsyncError");
      if (state == kSuccess) return;
      if (state != kInProgress) fail_call(name, state);
      check(std::chrono::steady_clock::now() < deadline, "[nccl] ", name, ": the ranks did not join within ",
            kStartTime.count(), " s (NCCL_DEBUG=INFO says more)");
      if (round > 1000) std::this_thread::sleep_for(100us);
    }
  }

  std::string text_of(Result result) const {
    const char* more = handle_ ? library_.last_error(handle_) : nullptr;
    return str(library_.error_string(result), more && *more ? str(" (", more, ")") : std::string());
  }
  void expect(Result result, const char* call) const {
    check(result == kSuccess, "[nccl] ", call, ": ", text_of(result));
  }
  /// Most errors are another rank's end: the watchdog knows whose.
  [[noreturn]] void fail_call(const char* name, Result result) const {
    throw PeerLost(-1, str("[nccl] ", name, ": ", text_of(result)));
  }

  Library& library_ = Library::get();
  const std::shared_ptr<Mesh> mesh_;
  Mesh::Group group_;
  std::shared_ptr<Lane> lane_;
  Handle handle_ = nullptr;
};

}  // namespace
}  // namespace mantissa::cuda

namespace mantissa {

std::unique_ptr<Comm> make_cuda_comm(std::unique_ptr<Mesh> mesh) {
  Mesh::Group all = mesh->all();
  return std::make_unique<cuda::NcclComm>(std::move(mesh), std::move(all), nullptr);
}

}  // namespace mantissa
