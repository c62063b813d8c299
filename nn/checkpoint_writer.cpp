#include "nn/checkpoint_writer.h"

#include <fstream>

#include "core/registry.h"

namespace mantissa {
namespace {

/// Bytes of host memory that can be taken without swapping (Linux: MemAvailable); 0 where the system does not say.
int64_t available_host_memory() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (int64_t kib = 0; std::sscanf(line.c_str(), "MemAvailable: %ld kB", &kib) == 1) return kib << 10;
  return 0;
}

/// A buffer, or the parts of it that are here, in host memory that training does not touch.
ParamBuffer host_copy(const ParamLayout& layout, const ParamBuffer& buffer) {
  Exec host(cpu());
  const ParamBuffer copy(host, layout, buffer.dtype(), buffer.shard());
  buffer.flat().backend().copy_to_host(copy.flat().raw(), buffer.flat().raw(), buffer.flat().bytes());
  return copy;
}

}  // namespace

CheckpointWriter::~CheckpointWriter() {
  if (writing_.valid()) writing_.wait();
}

void CheckpointWriter::save(const std::filesystem::path& root, const CheckpointState& state, const ParamSet& params,
                            const Optimizer& optimizer, const Keep& keep) {
  finish();
  in_place_ = params.placement == Placement::kHost;
  const int64_t bytes = in_place_ ? 0 : 3 * params.layout.whole().numel() * int64_t(sizeof(float));
  if (!background_ || bytes > available_host_memory() / 2) return save_checkpoint(root, state, params, optimizer, keep);
  copy_.layout = params.layout;
  for (ParamBuffer ParamSet::*buffer : kCheckpointBuffers)
    copy_.*buffer = in_place_ ? params.*buffer : host_copy(params.layout, params.*buffer);
  writing_ =
      std::async(std::launch::async, [this, root, state, record = optimizer.read_state(), &comm = optimizer.comm(),
                                      keep] { write_checkpoint(root, state, record, copy_, comm, keep); });
}

void CheckpointWriter::before_change() {
  if (writing_.valid() && (in_place_ || writing_.wait_for(std::chrono::seconds(0)) == std::future_status::ready))
    finish();
}

void CheckpointWriter::finish() {
  if (!writing_.valid()) return;
  writing_.wait();
  copy_ = {};
  writing_.get();
}

}  // namespace mantissa
