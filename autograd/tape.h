// The tape: records ops as they run and plays their gradients back in reverse.
//
// A Var is a tensor plus, when it needs a gradient, a slot on the tape. Ops (autograd/ops.h) take the Tape first,
// compute with kernels, and when the tape records and an input needs a gradient, leave a record with the gradient as a
// lambda. A tape that does not record is inference: the same ops, nothing kept.
//
// Saved values. An op keeps for backward only what backward reads, through save(): either the tensor or, where the
// recompute tier says so and the producer left a recipe, the recipe that makes it again. A recipe runs the very kernels
// that made the value, so every tier gives the same bits.
//
// Gradients. An activation's gradient has the activation's type. A parameter's gradient adds straight into the fp32
// view that was given with it (its sink), across micro-batches, until someone clears it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/kernels.h"

namespace mantissa {

/// What backward keeps and what it makes again, from most memory to least.
enum class Recompute : uint8_t {
  kNone,         // keep everything
  kElementwise,  // remake norm outputs and SwiGLU products
  kMlp,          // also the gate/up projection
  kFull,         // keep each layer's input only (checkpoint())
};

class Tape;

namespace detail {
struct Slot;
struct Recipe;
}  // namespace detail

class Var {
 public:
  Var() = default;
  /// A constant: no gradient flows to it.
  explicit Var(Tensor value) : value_(std::move(value)) {}

  const Tensor& value() const { return value_; }
  bool defined() const { return value_.defined(); }
  bool requires_grad() const { return slot_ != nullptr; }
  const Shape& shape() const { return value_.shape(); }
  Dtype dtype() const { return value_.dtype(); }
  /// The gradient after backward() of a leaf made by Tape::leaf (activations' gradients are freed on the way); undefined
  /// when none arrived.
  Tensor grad() const;

 private:
  friend class Tape;
  Tensor value_;
  std::shared_ptr<detail::Slot> slot_;
  std::shared_ptr<detail::Recipe> recipe_;
};

/// A value kept for backward: get() returns it, remaking it when only its recipe was kept.
class Saved {
 public:
  Saved() = default;
  Tensor get() const;

 private:
  friend class Tape;
  Tensor tensor_;
  std::shared_ptr<detail::Recipe> recipe_;
};

/// Called with each op's outputs (forward) and each input gradient (backward) when an observer is set:
/// forensics names the first non-finite tensor with it.
struct Observation {
  std::string_view scope;  // "layers.3.mlp"
  std::string_view op;     // "swiglu"
  bool backward;
  const Tensor& tensor;
};
using Observer = std::function<void(const Observation&)>;

class Tape {
 public:
  /// Gradients of an op's outputs, in the order of its outputs; an undefined tensor means zero.
  using Gradient = std::function<void(std::span<const Tensor> douts)>;

  /// A tape that records (training) or not (inference).
  explicit Tape(Exec& exec, bool recording, Recompute recompute = Recompute::kNone);
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Exec& exec() { return exec_; }
  bool recording() const { return recording_; }
  Recompute recompute() const { return recompute_; }

  /// An input whose gradient is wanted and kept in Var::grad().
  Var leaf(Tensor value);
  /// A parameter: its gradient is added to `sink` (fp32, or fp64 for fp64 values; same shape). An undefined sink means frozen.
  Var param(Tensor value, Tensor sink);

  // ---- for ops -----------------------------------------------------------------------------------------------------
  /// True when a gradient record is needed for an op with these inputs.
  bool needs_grad(std::initializer_list<const Var*> inputs) const;
  /// Registers an op that ran: wraps `values` as its outputs and, when `needs` is true, records `gradient`.
  std::vector<Var> outputs(const char* op, std::vector<Tensor> values, bool needs, Gradient gradient);
  /// The common case of one output.
  Var output(const char* op, Tensor value, bool needs, Gradient gradient);
  /// Attaches a recipe to an op's output, usable at tier `tier` and above.
  void set_recipe(Var& out, Recompute tier, std::function<Tensor()> remake);
  /// Keeps a value for backward (tensor or recipe).
  Saved save(const Var& v);
  /// Adds `grad` (moved from; type and shape of v) to v's gradient. No-op when v needs none.
  void add_grad(const Var& v, Tensor grad);
  /// The fp32 view parameters' gradients add into, undefined for anything else: kernels that can accumulate use it.
  Tensor sink(const Var& v) const;

  // ---- for callers -------------------------------------------------------------------------------------------------
  /// Plays the records back from d(root)/d(root) = 1 (root: one element), freeing them. Can be called once.
  void backward(const Var& root);
  /// Runs `body` on `inputs` without keeping anything inside; backward runs it again, recording, and plays that back.
  /// Used by recompute tier kFull, one call a layer. `body` must be a pure function of its inputs and parameters.
  std::vector<Var> checkpoint(const std::function<std::vector<Var>(Tape&, std::span<const Var>)>& body,
                              std::vector<Var> inputs);

  void set_observer(Observer observer) { observer_ = std::move(observer); }
  /// Number of records waiting for backward.
  size_t records() const;

  /// Names what runs inside: Tape::Scope scope(tape, "layers.3");
  class Scope {
   public:
    Scope(Tape& tape, std::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Tape& tape_;
    size_t length_;
  };

 private:
  struct Record;
  Exec& exec_;
  bool recording_;
  Recompute recompute_;
  Observer observer_;
  std::string scope_;
  std::vector<Record> records_;
};

}  // namespace mantissa
