#pragma once

#include <pybind11/pybind11.h>

void register_engine(pybind11::module_ & m);
void register_batch_plan(pybind11::module_ & m);
void register_metadata(pybind11::module_ & m);
void register_quantize(pybind11::module_ & m);
void register_log(pybind11::module_ & m);
