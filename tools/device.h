// Which device a program runs on.
#pragma once

#include <string>

#include "core/backend.h"

namespace mantissa {

/// The backend for --device and run.device: "cpu", "cuda" (an Error says why it is not there), or "auto", a
/// GPU when there is one. Registers CUDA the first time it may be wanted: a program that never asks makes no
/// context on the GPU.
Backend& open_device(const std::string& name);

}  // namespace mantissa
