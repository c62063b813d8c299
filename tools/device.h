// Which device a program runs on.
#pragma once

#include <string>

#include "core/backend.h"

namespace mantissa {

/// The backend for --device and run.device: "cpu", "cuda" or "cuda:N" (an Error says why it is not there), or "auto", a
/// GPU when there is one. Registers CUDA the first time it may be wanted: a program that never asks makes no context on
/// the GPU. `local_rank` is the rank's number on this machine (-1: a process alone) and with it the device's, unless
/// its launcher shows each rank one device only.
Backend& open_device(const std::string& name, int local_rank = -1);

/// Devices that a program may use: 0 without CUDA.
int visible_devices();

}  // namespace mantissa
