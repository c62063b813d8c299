#include "cuda/conveyor.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "core/notice.h"
#include "core/registry.h"
#include "cuda/device.h"

namespace mantissa::cuda {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kWorthANotice = size_t(1) << 30;
constexpr size_t kThreads = 16;  // that touch new memory

/// Pages come, zeroed by the system, when they are touched: by several threads, for that is most of the time.
void touch(std::byte* memory, size_t bytes) {
  const size_t pages = bytes / kHugePage;
  const size_t threads = std::min<size_t>({kThreads, pages, std::max(1u, std::thread::hardware_concurrency())});
  std::vector<std::jthread> workers;
  for (size_t t = 0; t < threads; ++t)
    workers.emplace_back([=] {
      std::byte* const begin = memory + pages * t / threads * kHugePage;
      std::byte* const end = memory + pages * (t + 1) / threads * kHugePage;
      std::memset(begin, 0, size_t(end - begin));
    });
}

class StreamConveyor : public Conveyor {
 public:
  StreamConveyor(Exec& exec, int slots) : main_(stream(exec)), slots_(size_t(slots)) {
    for (cudaStream_t* s : {&in_, &out_}) MANTISSA_CUDA(cudaStreamCreateWithFlags(s, cudaStreamNonBlocking));
    MANTISSA_CUDA(cudaEventCreateWithFlags(&edge_, cudaEventDisableTiming));
    for (Slot& slot : slots_)
      for (cudaEvent_t* event : {&slot.fetched, &slot.used, &slot.stored})
        MANTISSA_CUDA(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
    follow(in_, edge_, main_);
  }
  ~StreamConveyor() override {
    for (cudaStream_t s : {in_, out_}) {
      cudaStreamSynchronize(s);  // after an exception copies may be on their way to memory that goes now
      cudaStreamDestroy(s);
    }
    for (const Slot& slot : slots_)
      for (cudaEvent_t event : {slot.fetched, slot.used, slot.stored}) cudaEventDestroy(event);
    cudaEventDestroy(edge_);
  }

  void fetch(int number, std::span<const Copy> copies) override {
    const Slot& slot = slots_[size_t(number)];
    MANTISSA_CUDA(cudaStreamWaitEvent(in_, slot.stored, 0));  // one that was never recorded is over
    for (const Copy& c : copies)
      MANTISSA_CUDA(cudaMemcpyAsync(c.device.raw(), c.host.raw(), c.host.bytes(), cudaMemcpyHostToDevice, in_));
    MANTISSA_CUDA(cudaEventRecord(slot.fetched, in_));
  }
  void use(int number) override { MANTISSA_CUDA(cudaStreamWaitEvent(main_, slots_[size_t(number)].fetched, 0)); }
  void store(int number, std::span<const Copy> copies) override {
    const Slot& slot = slots_[size_t(number)];
    follow(out_, slot.used, main_);
    for (const Copy& c : copies)
      MANTISSA_CUDA(cudaMemcpyAsync(c.host.raw(), c.device.raw(), c.device.bytes(), cudaMemcpyDeviceToHost, out_));
    MANTISSA_CUDA(cudaEventRecord(slot.stored, out_));
  }
  void finish() override { follow(main_, edge_, out_); }

 private:
  struct Slot {
    cudaEvent_t fetched = nullptr, used = nullptr, stored = nullptr;
  };
  /// Later work on `behind` waits for what `ahead` holds now.
  static void follow(cudaStream_t behind, cudaEvent_t event, cudaStream_t ahead) {
    MANTISSA_CUDA(cudaEventRecord(event, ahead));
    MANTISSA_CUDA(cudaStreamWaitEvent(behind, event, 0));
  }

  cudaStream_t main_, in_ = nullptr, out_ = nullptr;
  cudaEvent_t edge_ = nullptr;
  std::vector<Slot> slots_;
};

}  // namespace

std::shared_ptr<Storage> allocate_pinned(size_t bytes) {
  const auto start = std::chrono::steady_clock::now();
  const size_t size = (std::max<size_t>(bytes, 1) + kHugePage - 1) / kHugePage * kHugePage;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kHugePage, size));
  check(memory != nullptr, "[host memory] asked for ", size, " bytes to be pinned: the system has none");
  ::madvise(memory, size, MADV_HUGEPAGE);
  touch(memory, size);
  const cudaError_t refused = cudaHostRegister(memory, size, cudaHostRegisterDefault);
  if (refused != cudaSuccess) {
    (void)cudaGetLastError();
    notice(str("host memory of ", size,
               " bytes could not be pinned, so copies to and from it are slow: ", cudaGetErrorString(refused)));
  } else if (size >= kWorthANotice) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    notice(str("pinned ", size >> 20, " MiB of host memory in ", int64_t(10 * seconds.count()) / 10.0, " s"));
  }
  std::shared_ptr<void> owner(memory, [pinned = refused == cudaSuccess](void* p) {
    if (pinned) cudaHostUnregister(p);
    std::free(p);
  });
  return std::make_shared<Storage>(cpu(), memory, bytes, std::move(owner));
}

std::unique_ptr<Conveyor> make_conveyor(Exec& exec, int slots) {
  return std::make_unique<StreamConveyor>(exec, slots);
}

}  // namespace mantissa::cuda
