#pragma once

#include <nanobind/nanobind.h>

void bind_golden(nanobind::module_& module);
