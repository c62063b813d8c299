#include "autograd/tape.h"

namespace mantissa {
namespace {

Slot make_slot(const Tensor& value, Sink sink = {}) {
  return std::make_shared<GradSlot>(GradSlot{value.shape(), value.dtype(), std::move(sink), {}});
}

}  // namespace

const Tensor& Saved::get() const {
  if (!recipe_) return tensor_;
  if (!recipe_->value.defined()) {
    recipe_->value = recipe_->remake();
    recipe_->remake = nullptr;  // and with it what only the remaking needed
  }
  return recipe_->value;
}

Var Tape::leaf(Tensor value) {
  Var v(std::move(value));
  if (recording_) v.slot_ = make_slot(v.value_);
  return v;
}

Var Tape::param(Tensor value, Sink sink) {
  Var v(std::move(value));
  if (!recording_ || !sink.defined()) return v;
  const Tensor& sum = sink.sum;
  check(sum.shape() == v.shape() && sum.dtype() == accumulator_of(v.dtype()), "[param] the gradient of a ",
        name_of(v.dtype()), " parameter ", v.shape(), " needs a view of that shape in ",
        name_of(accumulator_of(v.dtype())), ": got ", name_of(sum.dtype()), " ", sum.shape());
  v.slot_ = make_slot(v.value_, std::move(sink));
  return v;
}

bool Tape::needs_grad(std::initializer_list<const Var*> inputs) const {
  if (!recording_) return false;
  for (const Var* v : inputs)
    if (v->requires_grad()) return true;
  return false;
}

void Tape::observe(const char* op, bool backward, const Tensor& tensor, bool parameter) const {
  if (observer_) observer_({scope_, op, backward, tensor, groups_.offsets, groups_.first, parameter});
}

Var Tape::constant(const char* op, Tensor value) {
  observe(op, false, value);
  return Var(std::move(value));
}

std::vector<Var> Tape::outputs(const char* op, std::vector<Tensor> values, Gradient gradient) {
  std::vector<Var> vars;
  Record record{op, scope_, groups_, {}, std::move(gradient)};
  for (Tensor& value : values) {
    Var v = constant(op, std::move(value));
    v.slot_ = make_slot(v.value_);
    record.outputs.push_back(v.slot_);
    vars.push_back(std::move(v));
  }
  records_.push_back(std::move(record));
  return vars;
}

Var Tape::output(const char* op, Tensor value, Gradient gradient) {
  return outputs(op, {std::move(value)}, std::move(gradient)).front();
}

void Tape::set_recipe(Var& out, Recompute tier, std::function<Tensor()> remake) {
  if (recompute_ < tier) return;
  out.recipe_ = std::make_shared<detail::Recipe>();
  out.recipe_->remake = std::move(remake);
}

Saved Tape::save(const Var& v) const {
  Saved saved;
  if (v.recipe_)
    saved.recipe_ = v.recipe_;
  else
    saved.tensor_ = v.value_;
  return saved;
}

void Tape::add_grad(const Slot& slot, Tensor grad) {
  if (!slot) return;
  check(grad.shape() == slot->shape && grad.dtype() == slot->dtype, "[", playing_, "] gradient for ",
        name_of(slot->dtype), " ", slot->shape, ": got ", name_of(grad.dtype()), " ", grad.shape());
  observe(playing_, true, grad, slot->sink.defined());
  if (slot->sink.defined()) {
    Tensor sum = open_sink(slot);
    MANTISSA_RUN(exec_, binary, sum, sum, grad, Binary::kAdd);
  } else if (!slot->grad.defined()) {
    slot->grad = std::move(grad);
  } else {
    // Two slots may hold the same tensor (both inputs of an addition): write only where nobody else looks.
    Tensor sum = slot->grad.unique() ? slot->grad : grad.unique() ? grad : exec_.empty(slot->shape, slot->dtype);
    MANTISSA_RUN(exec_, binary, sum, slot->grad, grad, Binary::kAdd);
    slot->grad = std::move(sum);
  }
}

Tensor Tape::take_grad(const Slot& slot) {
  return slot ? std::exchange(slot->grad, {}) : Tensor();
}

Tensor Tape::open_sink(const Slot& slot, bool& accumulate) {
  accumulate = false;
  if (!slot) return {};
  if (!slot->sink.defined()) return exec_.empty(slot->shape, accumulator_of(slot->dtype));
  accumulate = !slot->sink.fresh || !std::exchange(*slot->sink.fresh, false);
  return slot->sink.sum;
}

Tensor Tape::open_sink(const Slot& slot) {
  bool accumulate;
  const Tensor sum = open_sink(slot, accumulate);
  if (sum.defined() && !accumulate) exec_.backend().zero(sum.raw(), sum.bytes());
  return sum;
}

void Tape::close_sink(const Slot& slot, Tensor sum) {
  if (!slot) return;
  if (slot->sink.defined()) {
    observe(playing_, true, sum, true);
  } else if (sum.dtype() == slot->dtype) {
    add_grad(slot, std::move(sum));
  } else {
    Tensor grad = exec_.empty(slot->shape, slot->dtype);
    MANTISSA_RUN(exec_, cast, grad, sum);
    add_grad(slot, std::move(grad));
  }
}

void Tape::backward(const Var& root) {
  check(root.defined() && root.value().numel() == 1, "[backward] the root must have one element: got shape ",
        root.shape());
  Tensor one = exec_.empty(root.shape(), root.dtype());
  MANTISSA_RUN(exec_, fill, one, 1.0);
  check(root.requires_grad(), "[backward] the root depends on no leaf and no parameter");
  backward(std::span(&root, 1), std::span(&one, 1));
}

void Tape::backward(std::span<const Var> roots, std::span<const Tensor> grads) {
  check(recording_, "[backward] this tape does not record");
  check(!played_, "[backward] can run once on a tape");
  check(roots.size() == grads.size(), "[backward] one gradient a root: got ", grads.size(), " for ", roots.size());
  played_ = true;
  const std::string outer_scope = scope_;
  for (size_t i = 0; i < roots.size(); ++i)
    if (grads[i].defined()) add_grad(roots[i].slot(), grads[i]);

  std::vector<Tensor> douts;
  while (!records_.empty()) {
    Record record = std::move(records_.back());  // with it its saved values go at the end of this round
    records_.pop_back();
    douts.clear();
    bool reached = record.outputs.empty();  // of when_played
    for (const Slot& slot : record.outputs) {
      douts.push_back(std::move(slot->grad));
      slot->grad = {};
      reached |= douts.back().defined();
    }
    if (!reached) continue;
    playing_ = record.op;
    scope_ = std::move(record.scope);
    groups_ = std::move(record.groups);
    record.gradient(douts);
  }
  playing_ = "backward";
  scope_ = outer_scope;
  groups_ = {};
}

void Tape::when_played(std::function<void()> done) {
  if (recording_) records_.push_back({"when_played", scope_, groups_, {}, [done = std::move(done)](auto) { done(); }});
}

std::vector<Var> Tape::checkpoint(const Body& body, std::vector<Var> inputs) {
  if (!recording_) return body(*this, inputs);

  Tape silent(exec_, false);
  silent.observer_ = observer_;
  silent.scope_ = scope_;
  std::vector<Tensor> values;
  for (const Var& out : body(silent, inputs)) values.push_back(out.value());

  std::vector<Saved> saved;
  std::vector<Slot> slots;
  for (const Var& in : inputs) {
    saved.push_back(save(in));
    slots.push_back(in.slot());
  }
  return outputs("checkpoint", std::move(values), [this, body, saved, slots](std::span<const Tensor> douts) {
    Tape again(exec_, true);
    again.observer_ = observer_;
    again.scope_ = scope_;
    std::vector<Var> leaves;
    for (size_t i = 0; i < saved.size(); ++i)
      leaves.push_back(slots[i] ? again.leaf(saved[i].get()) : Var(saved[i].get()));
    again.backward(body(again, leaves), douts);
    for (size_t i = 0; i < slots.size(); ++i)
      if (Tensor grad = leaves[i].grad(); grad.defined()) add_grad(slots[i], std::move(grad));
  });
}

Tape::Scope::Scope(Tape& tape, std::string_view name) : tape_(tape), length_(tape.scope_.size()) {
  if (length_ > 0) tape_.scope_ += '.';
  tape_.scope_ += name;
}

}  // namespace mantissa
