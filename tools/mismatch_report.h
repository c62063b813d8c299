// What a mismatch measurement reports of a cell: a JSON line, points for a plot, rows of two tables in Markdown.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "rl/train/mismatch.h"
#include "tools/mismatch_cells.h"

namespace mantissa {

/// What a cell shows: statistics of tokens and sequences, and of sequences by length.
struct Measured {
  Cell cell;
  MismatchStats stats;
  std::vector<LengthBucket> buckets;
  std::vector<int64_t> histogram;
  double seconds = 0;
};
Measured measure(const Cell& cell, const LogprobSides& sides);

/// What was measured on: the same for all cells.
struct MeasuredOn {
  std::string model, adapter;  // no adapter: empty
  std::vector<std::string> data;
  double temperature = 1;
  int64_t seed = 0;
};
/// A line on standard output, flushed: a matrix takes a while, and every finished cell is to be on the disk.
void print_line(const Measured& measured, const MeasuredOn& on);
/// A line a sequence: what a plot of pi against mu, and of log(pi / mu) against length, needs.
void write_points(AtomicFile& file, const Cell& cell, const LogprobSides& sides);
/// Two tables in Markdown: one row per cell, and one row per cell and length.
std::string format_tables(const std::vector<Measured>& measured);
/// The cell and its main numbers, for the log.
std::string summary_of(const Measured& measured);

}  // namespace mantissa
