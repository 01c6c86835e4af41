// A libnvidia-ml.so.1 with one card, for machines without NVIDIA's driver. What is not here, pynvml reports as missing,
// as with an old driver. HANG, CRASH and SIGNAL: what a driver does when its card has fallen off the bus; LOST: it
// says so, by that number.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long taken; unsigned gpu_instance, compute_instance; } Process;
enum { NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };

int nvmlInitWithFlags(unsigned flags) {
#ifdef HANG
    sleep(600);
#endif
#ifdef CRASH
    abort();
#endif
#ifdef SIGNAL
    raise(SIGNAL);
#endif
    return 0;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
#ifdef LOST // the error of the first of two cards
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)1; return index ? 0 : LOST; }
#else
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)1; return 0; }
#endif
int nvmlDeviceGetName(void *h, char *name, unsigned n) { strncpy(name, "NVIDIA H200", n); return 0; }
int nvmlDeviceGetUUID(void *h, char *uuid, unsigned n) { strncpy(uuid, "GPU-5f1c", n); return 0; }
int nvmlDeviceGetPciInfo_v3(void *h, Pci *pci) { strcpy(pci->bus_id, "00000000:1B:00.0"); return 0; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *m) { m->total = 150754820096; m->free = 150000000000; m->used = 754820096; return 0; }
int nvmlSystemGetDriverVersion(char *version, unsigned n) { strncpy(version, "570.124.06", n); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetCurrPcieLinkGeneration(void *h, unsigned *value) { *value = 1; return 0; }
int nvmlDeviceGetCurrPcieLinkWidth(void *h, unsigned *value) { *value = 8; return 0; }
int nvmlDeviceGetMaxPcieLinkGeneration(void *h, unsigned *value) { *value = 5; return 0; }
int nvmlDeviceGetMaxPcieLinkWidth(void *h, unsigned *value) { *value = 16; return 0; }
int nvmlDeviceGetTemperature(void *h, unsigned sensor, unsigned *celsius) { *celsius = 34; return 0; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *milliwatts) { *milliwatts = 76500; return 0; }
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *milliwatts) { *milliwatts = 700000; return 0; }
int nvmlDeviceGetEccMode(void *h, unsigned *now, unsigned *next) { *now = 1; *next = 1; return 0; }
#ifdef MIG
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { *now = 1; *next = 1; return 0; }
#else
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { return NOT_SUPPORTED; }
#endif
int nvmlDeviceGetMaxClockInfo(void *h, unsigned clock, unsigned *megahertz) { *megahertz = clock == 1 ? 1980 : 3201; return 0; }
int nvmlDeviceGetNumGpuCores(void *h, unsigned *cores) { *cores = 16896; return 0; }
int nvmlDeviceGetMemoryBusWidth(void *h, unsigned *bits) { *bits = 6144; return 0; }
// As the file `processes` beside this library says now: a number and bytes on each line. DEAF: it hangs when asked.
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *count, Process *found) {
    char path[4096];
    snprintf(path, sizeof path, "%s/processes", getenv("LD_LIBRARY_PATH"));
    FILE *file = fopen(path, "r");
    unsigned room = *count;
    Process one = {0};
#ifdef DEAF
    sleep(600);
#endif
    *count = 0;
    while (file && fscanf(file, "%u %llu", &one.pid, &one.taken) == 2) {
        if (*count < room) found[*count] = one;
        ++*count;
    }
    if (file) fclose(file);
    return *count > room ? INSUFFICIENT_SIZE : 0;
}
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Unknown Error"; }
