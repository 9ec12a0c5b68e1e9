// Round plans for Python: numpy arrays in and out.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace mars {

void bind_round_plan(pybind11::module_& module);

}  // namespace mars
