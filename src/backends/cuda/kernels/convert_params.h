// Parameters of convert.cuh, for host and device.
#pragma once

struct ConvertParams {
    const void* in;
    void* out;
    long long count;          // elements in all
    long long rows, columns;  // of one image of [rows, columns], which is written as [columns, rows]
};
