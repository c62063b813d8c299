// The CUDA backend: one device, one stream. Memory (cuda/memory.h), copies through pinned memory, graphs, the table of
// kernels.
#include "cuda/backend.h"

#include <cstring>
#include <exception>

#include "core/registry.h"
#include "cuda/attention/attention.h"
#include "cuda/conveyor.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/matmul/chained.h"
#include "cuda/matmul/grouped.h"
#include "cuda/memory.h"

namespace mantissa::cuda {
namespace {

constexpr int kOldestMajor = 8;  // compute capability: 8.0 has bf16

/// Pinned memory that copies go through, so that a copy to the device neither waits nor needs its source afterwards. A
/// ring of slots, each with the event after which it may be written again.
class Staging {
 public:
  static constexpr size_t kSlotBytes = size_t(4) << 20;
  static constexpr int kSlots = 8;

  Staging() {
    void* p = nullptr;
    MANTISSA_CUDA(cudaMallocHost(&p, kSlots * kSlotBytes));
    memory_ = static_cast<std::byte*>(p);
    for (cudaEvent_t& event : done_) MANTISSA_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  ~Staging() {
    for (cudaEvent_t event : done_) cudaEventDestroy(event);
    cudaFreeHost(memory_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void to_device(void* dst, const void* src, size_t bytes, cudaStream_t stream) {
    while (bytes > 0) {
      if (used_ == kSlotBytes) advance(stream);
      const size_t count = std::min(bytes, kSlotBytes - used_);
      std::byte* place = memory_ + size_t(slot_) * kSlotBytes + used_;
      std::memcpy(place, src, count);
      MANTISSA_CUDA(cudaMemcpyAsync(dst, place, count, cudaMemcpyHostToDevice, stream));
      used_ = std::min(kSlotBytes, (used_ + count + 255) / 256 * 256);
      dst = static_cast<std::byte*>(dst) + count;
      src = static_cast<const std::byte*>(src) + count;
      bytes -= count;
    }
  }

  /// Waits for the stream. The slots are filled in turn while the one before is emptied.
  void to_host(void* dst, const void* src, size_t bytes, cudaStream_t stream) {
    std::byte *out = static_cast<std::byte*>(dst), *waiting = nullptr;
    size_t waiting_bytes = 0;
    int waiting_slot = 0;
    const auto empty = [&] {
      if (!waiting) return;
      MANTISSA_CUDA(cudaEventSynchronize(done_[waiting_slot]));
      std::memcpy(out, waiting, waiting_bytes);
      out += waiting_bytes;
      waiting = nullptr;
    };
    const auto* from = static_cast<const std::byte*>(src);
    while (bytes > 0) {
      advance(stream);
      const size_t count = std::min(bytes, kSlotBytes);
      std::byte* place = memory_ + size_t(slot_) * kSlotBytes;
      MANTISSA_CUDA(cudaMemcpyAsync(place, from, count, cudaMemcpyDeviceToHost, stream));
      MANTISSA_CUDA(cudaEventRecord(done_[slot_], stream));
      used_ = kSlotBytes;  // this slot is taken
      empty();
      waiting = place, waiting_bytes = count, waiting_slot = slot_;
      from += count;
      bytes -= count;
    }
    empty();
  }

 private:
  /// Goes to the next slot once the device has left it.
  void advance(cudaStream_t stream) {
    MANTISSA_CUDA(cudaEventRecord(done_[slot_], stream));
    slot_ = (slot_ + 1) % kSlots;
    used_ = 0;
    MANTISSA_CUDA(cudaEventSynchronize(done_[slot_]));  // an event never recorded is done
  }

  std::byte* memory_ = nullptr;
  cudaEvent_t done_[kSlots] = {};
  int slot_ = 0;
  size_t used_ = 0;
};

class CudaGraph : public Graph {
 public:
  CudaGraph(cudaGraph_t graph, cudaStream_t stream, std::shared_ptr<Storage> scratch,
            std::shared_ptr<CachingAllocator> pool)
      : stream_(stream), scratch_(std::move(scratch)), pool_(std::move(pool)) {
    MANTISSA_CUDA(cudaGraphInstantiate(&executable_, graph, 0));
  }
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }
  void replay() override { MANTISSA_CUDA(cudaGraphLaunch(executable_, stream_)); }

 private:
  cudaGraphExec_t executable_ = nullptr;
  cudaStream_t stream_;
  std::shared_ptr<Storage> scratch_;  // recorded addresses lie in these
  std::shared_ptr<CachingAllocator> pool_;
};

class CudaBackend : public Device {
 public:
  explicit CudaBackend(int device) {
    MANTISSA_CUDA(cudaSetDevice(device));
    cudaDeviceProp properties;
    MANTISSA_CUDA(cudaGetDeviceProperties(&properties, device));
    int runtime = 0, driver = 0;
    MANTISSA_CUDA(cudaRuntimeGetVersion(&runtime));
    MANTISSA_CUDA(cudaDriverGetVersion(&driver));
    const auto version = [](int v) { return str(v / 1000, ".", v % 1000 / 10); };
    device_name_ = properties.name;
    description_ = str("cuda:", device, " ", properties.name, ", ", properties.multiProcessorCount, " SMs, CUDA ",
                       version(runtime), ", driver for ", version(driver));
    facts_ = {.sms = properties.multiProcessorCount,
              .shared_per_block = properties.sharedMemPerBlockOptin,
              .major = properties.major,
              .minor = properties.minor,
              .can_begin_early = cuda::waits_for_kernels_ahead()};
    MANTISSA_CUDA(cudaStreamCreateWithFlags(&main_, cudaStreamNonBlocking));
    pool_ = std::make_shared<CachingAllocator>("tensors", properties.totalGlobalMem);
    graph_pool_ = std::make_shared<CachingAllocator>("graphs", properties.totalGlobalMem);
    staging_ = std::make_unique<Staging>();
    cuda_kernels::register_elementwise(kernels_);
    cuda_kernels::register_matmul(kernels_);
    cuda_kernels::register_norm(kernels_);
    cuda_kernels::register_attention(kernels_);
    cuda_kernels::register_experts(kernels_);
    cuda_kernels::register_grouped_matmul(kernels_);
    cuda_kernels::register_vocab(kernels_);
    cuda_kernels::register_sampling(kernels_);
    cuda_kernels::register_optim(kernels_);
  }
  ~CudaBackend() override {
    cudaStreamSynchronize(main_);
    cudaStreamDestroy(main_);
  }

  const std::string& name() const override { return name_; }
  const Kernels& kernels() const override { return kernels_; }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    const std::shared_ptr<CachingAllocator>& pool = capturing_ ? graph_pool_ : pool_;
    std::byte* block = pool->take(bytes);
    if (!block && !capturing_) {
      pool_->release_unused();  // what is cached in pieces may serve as a whole
      block = pool->take(bytes);
    }
    if (!block) fail_allocation(bytes);
    std::shared_ptr<void> owner(block, [pool](void* p) { pool->give_back(static_cast<std::byte*>(p)); });
    return std::make_shared<Storage>(*this, block, bytes, std::move(owner));
  }
  void copy_from_host(void* dst, const void* src, size_t bytes) override {
    check(!capturing_, "[cuda] a copy from the host cannot be part of a graph");
    staging_->to_device(dst, src, bytes, main_);
  }
  void copy_to_host(void* dst, const void* src, size_t bytes) override {
    check(!capturing_, "[cuda] a copy to the host cannot be part of a graph");
    staging_->to_host(dst, src, bytes, main_);
  }
  void copy(void* dst, const void* src, size_t bytes) override {
    if (bytes > 0) MANTISSA_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, main_));
  }
  void zero(void* dst, size_t bytes) override {
    if (bytes > 0) MANTISSA_CUDA(cudaMemsetAsync(dst, 0, bytes, main_));
  }
  void synchronize() override { MANTISSA_CUDA(cudaStreamSynchronize(main_)); }

  std::shared_ptr<Storage> allocate_host(size_t bytes) override { return allocate_pinned(bytes); }
  std::unique_ptr<Conveyor> conveyor(Exec& exec, int slots) override { return make_conveyor(exec, slots); }

  std::unique_ptr<Graph> capture(Exec& exec, const std::function<void()>& body) override {
    check(!capturing_, "[cuda] graphs cannot be nested");
    check(!exec.stream, "[cuda] graphs are recorded on the backend's own stream");
    size_t free = 0, total = 0;
    MANTISSA_CUDA(cudaMemGetInfo(&free, &total));
    if (free < total / 16)
      pool_->release_unused();  // graphs' memory is their own, and nothing is freed while recording
    const std::shared_ptr<Storage> scratch = exec.scratch();
    // What the same step found out when it ran before must be known: a plan whose check is under way has no place in a
    // graph (cuda/matmul/exact_products.cpp), and the kernel in its place is slow.
    MANTISSA_CUDA(cudaStreamSynchronize(main_));
    MANTISSA_CUDA(cudaStreamBeginCapture(main_, cudaStreamCaptureModeRelaxed));
    capturing_ = true;
    std::exception_ptr failure;
    try {
      body();
    } catch (...) {
      failure = std::current_exception();
    }
    capturing_ = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t end = cudaStreamEndCapture(main_, &graph);
    const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, cudaError_t (*)(cudaGraph_t)> owner(graph,
                                                                                                  cudaGraphDestroy);
    if (failure) {
      (void)cudaGetLastError();
      std::rethrow_exception(failure);
    }
    MANTISSA_CUDA(end);
    check(exec.scratch() == scratch,
          "[cuda] the scratch arena grew while a graph was recorded: its body must have run "
          "once with the same shapes");
    return std::make_unique<CudaGraph>(graph, main_, scratch, graph_pool_);
  }

  /// Capacity is what this program can have: what it holds and what the device has left. Graphs use their whole pool at
  /// every replay, also where their tensors are gone.
  MemoryInfo memory() const override {
    size_t free = 0, total = 0;
    MANTISSA_CUDA(cudaMemGetInfo(&free, &total));
    return {.in_use = pool_->in_use() + graph_pool_->reserved(),
            .peak = pool_->peak() + graph_pool_->reserved(),
            .capacity = pool_->reserved() + graph_pool_->reserved() + free};
  }
  void reset_peak() override { pool_->reset_peak(); }
  std::string measured_choices() const override {
    const std::string products = cuda_kernels::measured_products();
    return products.empty() ? "" : str(device_name_, '\n', products);
  }
  void restore_measured_choices(const std::string& text) override {
    const std::string head = str(device_name_, '\n');
    if (text.starts_with(head)) cuda_kernels::restore_measured_products(text.substr(head.size()));
  }
  std::string exact_obstacle(const ExactNeeds& needs) const override {
    if (!is_16bit(needs.compute))
      return str("products of ", name_of(needs.compute), " add in an order that depends on the batch: fp16 or bf16");
    if (!is_16bit(needs.lm_head))
      return str("the head's product of ", name_of(needs.lm_head), " adds in an order that depends on the batch");
    if (needs.kv_cache != needs.compute)
      return str("a cache of ", name_of(needs.kv_cache), " rounds the keys and values of ", name_of(needs.compute));
    if (needs.head_size > 0 && !cuda_kernels::has_exact_attention(needs.head_size))
      return str("exact attention has head sizes 16, 32, 64, 80, 96 and 128, not ", needs.head_size);
    if (needs.adapter && !cuda_kernels::has_chained_products(facts_))
      return "an adapter's sums go on from one product to the next, which is exact on Hopper alone (compute capability 9)";
    if (needs.adapter % 8 != 0)
      return str(
          "an adapter's sums go on from one product to the next, which is exact with inputs in multiples of 8, not of ",
          needs.adapter);
    return {};
  }
  std::string description() const override { return description_; }

 private:
  [[noreturn]] void fail_allocation(size_t bytes) const {
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    fail("[cuda memory] asked for ", bytes, " bytes: ", device_name_, " has ", total, " bytes, of which ", free,
         " are left; ", pool_->summary(), "; ", graph_pool_->summary(),
         ". To need less: train.micro_batch_tokens, train.recompute (elementwise, mlp, full), "
         "train.head_chunk, rollout.max_batch, rollout.memory_fraction, rollout.cache_tokens");
  }

  const std::string name_ = "cuda";
  std::string device_name_, description_;
  std::shared_ptr<CachingAllocator> pool_, graph_pool_;
  std::unique_ptr<Staging> staging_;
  Kernels kernels_{};
};

}  // namespace
}  // namespace mantissa::cuda

namespace mantissa {

std::string cuda_unavailable(int device) {
  int count = 0, runtime = 0, driver = 0;
  (void)cudaRuntimeGetVersion(&runtime);
  (void)cudaDriverGetVersion(&driver);
  if (driver == 0) return "no NVIDIA driver is installed";
  const auto version = [](int v) { return str(v / 1000, ".", v % 1000 / 10); };
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return str("the driver supports CUDA ", version(driver), ", this program needs ", version(runtime));
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    return "no CUDA device is visible (CUDA_VISIBLE_DEVICES?)";
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (device < 0 || device >= count) return str("there are ", count, " CUDA devices, asked for number ", device);
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return str("device ", device, " does not answer");
  if (major < cuda::kOldestMajor)
    return str("device ", device, " has compute capability ", major, ".", minor, ", ", cuda::kOldestMajor,
               ".0 is needed");
  if (const cudaError_t refused = cudaSetDevice(device); refused != cudaSuccess) {
    (void)cudaGetLastError();
    return str("device ", device, " cannot be used by this process: ", cudaGetErrorString(refused));
  }
  return cuda::missing_device_code();
}

int cuda_device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  return error == cudaSuccess ? count : 0;
}

void register_cuda_backend(int device) {
  const std::string reason = cuda_unavailable(device);
  check(reason.empty(), "device \"cuda\" is not available: ", reason);
  register_backend(std::make_unique<cuda::CudaBackend>(device));
}

}  // namespace mantissa
