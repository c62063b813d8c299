// CheckpointWriter: checkpoints that are written while training goes on. Training waits until weights, moments and the
// optimizer's record have been copied to host memory; a thread puts them on the disk as save_checkpoint does, so a kill
// in the middle costs that checkpoint alone. At most one is being written. Of several processes each has such a thread,
// for what it keeps.
//
// Masters and moments that lie in host memory already (Placement::kHost) are not copied: the thread reads them where
// they are, and the next step of the optimizer waits for it before it changes them. Where copies, those of all
// processes together, would take more than half of the memory that is available, save() writes before it returns.
#pragma once

#include <future>

#include "nn/checkpoint.h"

namespace mantissa {

class CheckpointWriter {
 public:
  /// `background` false: save() returns when the checkpoint is there.
  explicit CheckpointWriter(bool background) : background_(background) {}
  /// Waits for the checkpoint that is being written. Call finish() before, to hear what kept it from getting there.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  /// Begins a checkpoint, after the one before it is done. Every process of optimizer.comm(), which must outlive this
  /// object, calls it. Throws what save_checkpoint throws, of this one or of the one before.
  void save(const std::filesystem::path& root, const CheckpointState& state, const ParamSet& params,
            const Optimizer& optimizer, const Keep& keep);
  /// Call it before masters and moments change (Optimizer::before_change). Throws what has failed since save().
  void before_change();
  /// Returns when the last checkpoint is on the disk, whole. Throws what kept it from getting there.
  void finish();

 private:
  const bool background_;
  bool in_place_ = false;  // the thread reads the buffers that training uses
  ParamSet copy_;          // what the thread reads; freed here, since memory belongs to the main thread
  std::future<void> writing_;
};

}  // namespace mantissa
