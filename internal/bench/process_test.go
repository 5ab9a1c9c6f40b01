package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticks is the unit of CPU time in /proc, sysconf(_SC_CLK_TCK); it is 100 on every
// Linux that Go runs on.
const ticks = 100

// cpu returns the CPU seconds of a process, user and system.
func cpu(pid int) float64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses and may hold blanks.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	total := 0.0
	for _, i := range []int{11, 12} { // utime and stime
		n, _ := strconv.ParseFloat(fields[i], 64)
		total += n
	}
	return total / ticks
}

// What memory returns: the resident size now, or the largest so far.
const residentMemory, peakMemory = "VmRSS:", "VmHWM:"

// memory returns a size of a process, in MiB.
func memory(pid int, which string) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, which); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib / 1024
		}
	}
	return 0
}

// apiServerCPU returns the CPU seconds of the API server of this run.
func apiServerCPU() float64 {
	_, port, _ := strings.Cut(env.Address(), ":")
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range dirs {
		content, _ := os.ReadFile(path)
		if bytes.Contains(content, []byte("--secure-port="+port)) && bytes.HasPrefix(content[bytes.LastIndexByte(content[:bytes.IndexByte(content, 0)+1], '/')+1:], []byte("kube-apiserver")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return cpu(pid)
		}
	}
	return 0
}
