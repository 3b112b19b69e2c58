// What torch asks of a card's driver around every operation, for cards that are not there: nothing is done, on no card.
// That of torch's device type for others' backends is there from the start: see fake_gpu.py.
#include <c10/core/impl/DeviceGuardImplInterface.h>

using namespace c10;

namespace {

template <DeviceType kind>
struct NoCard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return kind; }
  Device exchangeDevice(Device) const override { return getDevice(); }
  Device getDevice() const override { return Device(kind, 0); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, getDevice()); }
  Stream getDefaultStream(Device) const override { return getStream(getDevice()); }
  Stream exchangeStream(Stream) const override { return getStream(getDevice()); }
  DeviceIndex deviceCount() const noexcept override { return 0; }
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
};

NoCard<DeviceType::CUDA> no_card;
NoCard<DeviceType::PrivateUse1> no_other;
impl::DeviceGuardImplRegistrar registrar(DeviceType::PrivateUse1, &no_other);

}  // namespace

// Puts a guard in the place of CUDA's, this one for none; returns the one that was there.
extern "C" const void* replace_guard(const void* guard) {
  auto& held = impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)];
  const auto* next = guard == nullptr ? &no_card : static_cast<const impl::DeviceGuardImplInterface*>(guard);
  return held.exchange(next);
}
