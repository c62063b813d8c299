// Runner: computes the scheduler's plans with the decoder. Owns the KV cache and every tensor of a step; has no policy.
//
// Prefill packs the prompts of a plan into one pass. Decode works on buckets of rows: a batch is padded with inactive
// rows (length 0, slot -1) to the next of a few sizes, whose tensors are made once and keep their addresses. The first
// step of a bucket runs kernel by kernel and is recorded; the next ones replay it where the backend has graphs and the
// rank makes its passes alone (gather_by_unit; nn/moe.h: the host has to know how many rows travel). The host sends one
// block of int32 per step, and of the page table what changed, or all of it where much did; all else that differs
// between steps (keys and values, the random key) is device data. Rows of guessed tokens read keys and values that the
// rows before them write in the same step: a layer then writes those of all rows before it attends, else each row's
// beside its attention. The page table is as wide as the rows of this schedule have needed so far, in powers of two:
// attention is launched for as many keys as it has room for.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "nn/model.h"
#include "rl/rollout/options.h"
#include "rl/rollout/scheduler.h"

namespace mantissa {

class Runner {
 public:
  Runner(Exec& exec, const Model& model, const EnginePrecision& precision, int64_t max_batch);

  /// Bytes of one page over all layers.
  int64_t page_bytes() const;
  int64_t pages() const { return pages_; }
  /// Memory for `pages` pages, and for `max_pages` of them per sequence. Growing loses the keys and values that the
  /// cache holds.
  void reserve(int64_t pages, int64_t max_pages);
  /// Gives that memory back, and forgets what reads it or the weights, and gather_by_unit.
  void release();
  /// Of weights in parts: from here on each pass gathers them unit by unit, every rank of `comm` making as many passes
  /// as the others.
  void gather_by_unit(Comm& comm);
  /// Bytes that a pass takes for them.
  int64_t window_bytes() const;
  /// A new schedule: nothing is known about the rows. Samples are drawn with these keys and this rule. `routes`: they
  /// are recorded, where the model's can be.
  void begin(SampleKeys keys, SamplingRule rule, bool routes = false);
  /// Takes part, without a row, in a run() of the other ranks that share the model's experts or gather with this one.
  void join();
  /// Computes a plan (not kDone). tokens() and logprobs() then hold one entry per row of it, routes() those of each
  /// token computed, as TokenRoutes has them.
  void run(const Plan& plan);
  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const float> logprobs() const { return logprobs_; }
  std::span<const uint8_t> routes() const { return routes_; }
  /// The last run() was a decode step that had been recorded before: its time is that of others like it.
  bool replayed() const { return replayed_; }

 private:
  struct Row {  // what the device's page table holds for a row
    int64_t admission = 0, pages = 0;
  };

  void prefill(const Plan& plan);
  void decode(const Plan& plan);
  void copy_pages(const Plan& plan);
  void widen_table(const Plan& plan);
  void update_table(const Plan& plan);
  Tensor upload(Tensor block);
  void decode_step(const Tensor& block, int64_t bucket, bool distinct);
  void draw(const Tensor& logits, const Tensor& counters);
  void fetch(int64_t drawn, int64_t rows);
  Tensor chosen(int64_t bucket) const;
  void fetch_routes(const Tensor& chosen, int64_t tokens);
  ForwardContext context(Tape& tape);

  Exec& exec_;
  const Model& model_;
  std::unique_ptr<ParamWindows> windows_;  // null: weights are whole
  EnginePrecision precision_;
  int64_t max_batch_;
  bool replayed_ = false;
  Tensor key_;  // of the random numbers
  SamplingRule rule_;
  KvCache cache_;
  int64_t pages_ = 0, max_pages_ = 0;
  std::shared_ptr<Storage> table_memory_;  // room for [max_batch, max_pages] int32
  Tensor table_;                           // [max_batch, W] int32 there; undefined before a schedule's first step
  std::vector<Row> rows_;                  // [max_batch]

  struct Form {  // of a decode step; rollout and evaluation take turns, each with its own rule
    SamplingRule rule;
    int64_t width = 0;      // of table_
    bool distinct = false;  // no two rows are of one sequence
    auto operator<=>(const Form&) const = default;
  };
  struct Bucket {
    Tensor block;  // of B rows: ids, positions, slots, lengths, ahead [B], counters [B,3]
    std::map<Form, std::unique_ptr<Graph>> graphs;  // of decode_step, on cache_ and table_
    bool rehearsed = false;                         // on this cache: one step tells what all take
  };
  void forget_graphs();
  std::shared_ptr<const Adapter> adapter_;  // that the graphs read, held so that no other takes its place in memory

  std::map<int64_t, Bucket> buckets_;  // by B
  std::shared_ptr<Storage> results_;   // of B rows: tokens int32 [B], then log-probs fp32 [B]
  int64_t layers_ = 0;                 // with experts that can be recorded (records_routes), L
  std::shared_ptr<Storage> chosen_;    // of B rows: their experts int32 [L,B,K]; null where L is 0
  bool records_ = false;

  std::vector<int32_t> host_;  // the block being filled, and results on their way back
  std::vector<int32_t> tokens_;
  std::vector<float> logprobs_;
  std::vector<uint8_t> routes_;
};

}  // namespace mantissa
