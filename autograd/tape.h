// The tape: records ops as they run and plays their gradients back in reverse.
//
// A Var is a tensor plus, when it needs a gradient, a slot for it. Ops (autograd/ops.h) take the Tape first, compute
// with kernels, and when the tape records and an input needs a gradient, leave a record with the gradient as a lambda.
// A tape that does not record is inference: the same ops, nothing kept.
//
// Saved values. An op keeps for backward only what backward reads, through save(): either the tensor or, where the
// recompute tier says so and the producer left a recipe, the recipe that makes it again. A recipe runs the very kernels
// that made the value, so every tier gives the same bits. A value is remade at most once: the first reader remakes it,
// and it lives until the last record that reads it has played.
//
// Gradients. An activation's gradient has the activation's type. A parameter's gradient adds straight into the fp32
// view that was given with it (its sink), across micro-batches. What adds up begins at zeros, or in a fresh sink, where
// the first gradient is written: to the same bits (but that a product below fp32's smallest number leaves its sign on
// the zero), and memory is neither cleared nor read for it.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
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

/// Where a parameter's gradient adds up: a view of the parameter's shape in fp32 (fp64 of fp64 values). Undefined: the
/// parameter is frozen.
struct Sink {
  Sink() = default;
  Sink(Tensor sum, std::shared_ptr<bool> fresh = nullptr) : sum(std::move(sum)), fresh(std::move(fresh)) {}
  bool defined() const { return sum.defined(); }
  Tensor sum;
  std::shared_ptr<bool> fresh;  // true: nothing has come yet, and what lies in sum means nothing; null: false
};

/// Where a Var's gradient goes. Records hold slots, never Vars, so that no record keeps a value alive that its gradient
/// does not read.
struct GradSlot {
  Shape shape;
  Dtype dtype;
  Sink sink;    // parameters
  Tensor grad;  // everything else: what has arrived so far
};
using Slot = std::shared_ptr<GradSlot>;

namespace detail {
/// How to make a value again, then the value itself for as long as a Saved refers to it.
struct Recipe {
  std::function<Tensor()> remake;
  Tensor value;
};
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
  /// The gradient after backward() of a leaf made by Tape::leaf (activations' gradients are freed on the way,
  /// parameters' are in their sinks); undefined when none arrived.
  Tensor grad() const { return slot_ ? slot_->grad : Tensor(); }
  /// For ops: what a gradient lambda captures to hand a gradient back; null when none is wanted.
  const Slot& slot() const { return slot_; }

 private:
  friend class Tape;
  Tensor value_;
  Slot slot_;
  std::shared_ptr<detail::Recipe> recipe_;
};

/// A value kept for backward: get() returns it, remaking it when only its recipe was kept.
class Saved {
 public:
  Saved() = default;
  const Tensor& get() const;

 private:
  friend class Tape;
  Tensor tensor_;
  std::shared_ptr<detail::Recipe> recipe_;
};

/// Called with each op's outputs (forward) and each gradient handed back by an op (backward; what take_grad gave it
/// included, for a parameter the sink after the addition) when an observer is set. autograd/nonfinite.h has one that
/// finds the first non-finite tensor of a step.
struct Observation {
  std::string_view scope;  // "layers.3.mlp"
  std::string_view op;     // "swiglu"
  bool backward;
  const Tensor& tensor;
  const Tensor& groups;  // see Tape::Groups; undefined: rows are tokens
  int64_t first_group = 0;
  bool parameter = false;  // the gradient of a parameter
};
using Observer = std::function<void(const Observation&)>;

class Tape {
  struct GroupedRows {
    Tensor offsets;
    int64_t first = 0;
  };

 public:
  /// Gradients of an op's outputs, in the order of its outputs; an undefined tensor means zero, and at least one is
  /// defined when the lambda is called.
  using Gradient = std::function<void(std::span<const Tensor> douts)>;
  /// A piece of model for checkpoint().
  using Body = std::function<std::vector<Var>(Tape&, std::span<const Var>)>;

  /// A tape that records (training) or not (inference).
  explicit Tape(Exec& exec, bool recording, Recompute recompute = Recompute::kNone)
      : exec_(exec), recording_(recording), recompute_(recompute) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Exec& exec() { return exec_; }
  bool recording() const { return recording_; }
  Recompute recompute() const { return recompute_; }

  /// An input whose gradient is wanted and kept in Var::grad().
  Var leaf(Tensor value);
  /// A parameter: its gradient is added to `sink`, or written to it while it is fresh. The same parameter may be made
  /// and used any number of times (tied embedding): all uses add.
  Var param(Tensor value, Sink sink);

  // ---- for ops ------------------------------------------------------------------------------------------------------
  /// True when a gradient record is needed for an op with these inputs (undefined ones count as constants).
  bool needs_grad(std::initializer_list<const Var*> inputs) const;
  /// Wraps the output of an op that leaves no record.
  Var constant(const char* op, Tensor value);
  /// Wraps the outputs of an op that ran and records its gradient. Call only when needs_grad().
  std::vector<Var> outputs(const char* op, std::vector<Tensor> values, Gradient gradient);
  /// The common case of one output.
  Var output(const char* op, Tensor value, Gradient gradient);
  /// Attaches a recipe to an op's output, used at tier `tier` and above; dropped below it.
  void set_recipe(Var& out, Recompute tier, std::function<Tensor()> remake);
  /// Keeps a value for backward (tensor or recipe).
  Saved save(const Var& v) const;
  /// Hands back a gradient of the slot's type and shape: the first one is kept, later ones are added to it; a
  /// parameter's goes to its sink. No-op for a null slot.
  void add_grad(const Slot& slot, Tensor grad);
  /// For kernels that add what came before on their way: takes what add_grad has kept for the slot so far; undefined
  /// where there is nothing, of a parameter and of a null slot. The op hands back round(taken + its own gradient) by
  /// add_grad, and does not write to what it took: others may hold it.
  Tensor take_grad(const Slot& slot);
  /// For kernels that add to a gradient in fp32 (fp64): open_sink gives the tensor to add to, the parameter's sink or a
  /// temporary, zeros where nothing has come yet (undefined for a null slot); close_sink hands it back after the kernel
  /// ran.
  Tensor open_sink(const Slot& slot);
  /// The same for kernels that write as well as add: `accumulate` says which. If it is false the tensor means nothing
  /// until the kernel has written all of it.
  Tensor open_sink(const Slot& slot, bool& accumulate);
  void close_sink(const Slot& slot, Tensor sum);

  // ---- for callers --------------------------------------------------------------------------------------------------
  /// Plays the records back from d(root)/d(root) = 1 (root: one element), freeing them. Can be called once.
  void backward(const Var& root);
  /// The same from given gradients of several roots (type and shape of their values; undefined = zero).
  void backward(std::span<const Var> roots, std::span<const Tensor> grads);
  /// Runs `body` on `inputs` without keeping anything inside; backward runs it again, recording, and plays that back.
  /// Used by recompute tier kFull, one call a layer. `body` must be a pure function of its inputs and of parameters,
  /// and use the tape it is given. A tape that does not record just runs it.
  std::vector<Var> checkpoint(const Body& body, std::vector<Var> inputs);

  /// Calls `done` in backward once all that is recorded after this call has been played: parameters that are used from
  /// here on alone have their whole gradient then. `done` records nothing. A tape that does not record ignores it.
  void when_played(std::function<void()> done);

  void set_observer(Observer observer) { observer_ = std::move(observer); }
  const Observer& observer() const { return observer_; }
  /// Number of records waiting for backward.
  size_t records() const { return records_.size(); }

  const std::string& scope() const { return scope_; }
  /// Names what runs inside, nested with dots: Tape::Scope scope(tape, "layers.3");
  class Scope {
   public:
    Scope(Tape& tape, std::string_view name);
    ~Scope() { tape_.scope_.resize(length_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Tape& tape_;
    size_t length_;
  };
  /// Names what runs inside by a scope() of before: a fused op's part that belongs to an earlier layer.
  class ScopeAs {
   public:
    ScopeAs(Tape& tape, std::string scope) : tape_(tape), outer_(std::exchange(tape.scope_, std::move(scope))) {}
    ~ScopeAs() { tape_.scope_ = std::move(outer_); }
    ScopeAs(const ScopeAs&) = delete;
    ScopeAs& operator=(const ScopeAs&) = delete;

   private:
    Tape& tape_;
    std::string outer_;
  };

  /// Says of what runs inside that its rows are grouped by expert: those of expert first + e are rows [offsets[e],
  /// offsets[e+1]), and a parameter's rows are those of all these experts, as many each.
  class Groups {
   public:
    Groups(Tape& tape, Tensor offsets, int64_t first = 0)
        : tape_(tape), outer_(std::exchange(tape.groups_, {std::move(offsets), first})) {}
    ~Groups() { tape_.groups_ = std::move(outer_); }
    Groups(const Groups&) = delete;
    Groups& operator=(const Groups&) = delete;

   private:
    Tape& tape_;
    GroupedRows outer_;
  };

 private:
  struct Record {
    const char* op;
    std::string scope;
    GroupedRows groups;
    std::vector<Slot> outputs;
    Gradient gradient;
  };
  void observe(const char* op, bool backward, const Tensor& tensor, bool parameter = false) const;

  Exec& exec_;
  bool recording_;
  Recompute recompute_;
  Observer observer_;
  std::string scope_;
  GroupedRows groups_;
  const char* playing_ = "backward";  // op whose gradient runs, for messages and observers
  bool played_ = false;
  std::vector<Record> records_;
};

}  // namespace mantissa
