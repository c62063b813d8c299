#include "core/conveyor.h"

#include "core/backend.h"

namespace mantissa {
namespace {

/// Copies at once: what others are compared with.
class DirectConveyor : public Conveyor {
 public:
  explicit DirectConveyor(Backend& backend) : backend_(backend) {}
  void fetch(int, std::span<const Copy> copies) override {
    for (const Copy& c : copies) backend_.copy_from_host(c.device.raw(), c.host.raw(), c.host.bytes());
  }
  void use(int) override {}
  void store(int, std::span<const Copy> copies) override {
    for (const Copy& c : copies) backend_.copy_to_host(c.host.raw(), c.device.raw(), c.device.bytes());
  }
  void finish() override {}

 private:
  Backend& backend_;
};

}  // namespace

/// The CPU's, and any backend's that has nothing faster.
std::unique_ptr<Conveyor> Backend::conveyor(Exec&, int) {
  return std::make_unique<DirectConveyor>(*this);
}

}  // namespace mantissa
