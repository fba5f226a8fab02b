// Fault injection: finding the storage of a public register by name. Only does something in libraries built for it.
#include "harness.hpp"
#if HWGEN_POKE
#include "verilated_syms.h"
#endif

namespace hwgen {

#if HWGEN_POKE
namespace {

// Verilated scopes are called TOP.<top module>.<instance>...; callers name what is below the top module.
std::string below_top(const char* scope) {
  std::string name = scope;
  for (int level = 0; level < 2; ++level) {
    size_t dot = name.find('.');
    if (dot == std::string::npos) return "";
    name.erase(0, dot + 1);
  }
  return name;
}

template <class Visit>
void each_public(VerilatedContext& context, Visit visit) {
  const VerilatedScopeNameMap* scopes = context.scopeNameMap();
  if (!scopes) return;
  for (const auto& [scope_name, scope] : *scopes) {
    const VerilatedVarNameMap* variables = const_cast<VerilatedScope*>(scope)->varsp();
    if (!variables) continue;
    std::string prefix = below_top(scope_name);
    for (const auto& [variable_name, variable] : *variables)
      visit(prefix.empty() ? std::string(variable_name) : prefix + "." + variable_name, variable);
  }
}

}  // namespace

bool Accelerator::flip(const char* path, uint64_t element, uint32_t bit, uint64_t from, uint64_t cycles) {
  uint8_t* byte = nullptr;
  each_public(*context_, [&](const std::string& name, const VerilatedVar& variable) {
    if (name != path) return;
    uint64_t elements = 1;
    for (int dimension = 1; dimension <= variable.udims(); ++dimension) elements *= variable.elements(dimension);
    if (element >= elements || bit >= variable.entBits()) return;
    byte = static_cast<uint8_t*>(variable.datap()) + element * variable.entSize() + bit / 8;
  });
  if (!byte) return false;
  uint8_t mask = uint8_t(1u << (bit % 8));
  if (cycles) {
    faults_.push_back({byte, mask, from, from + cycles});
  } else {
    *byte ^= mask;
    model_->eval();
  }
  return true;
}

std::string Accelerator::public_names() const {
  std::string names;
  each_public(*context_, [&](const std::string& name, const VerilatedVar&) { names += name + "\n"; });
  return names;
}

#else

bool Accelerator::flip(const char*, uint64_t, uint32_t, uint64_t, uint64_t) { return false; }
std::string Accelerator::public_names() const { return ""; }

#endif

}  // namespace hwgen
