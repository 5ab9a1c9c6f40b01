package main

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// A process is what status shows of one.
type process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// MiB is its resident memory.
	MiB int `json:"mib"`
}

// memory returns the process and its children, in the order of their start. It knows nothing where there
// is no /proc.
func memory(pid int) []process {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return nil
	}
	var found []process
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := parseProcStatus(content)
		if fields["Pid"] != pid && fields["PPid"] != pid {
			continue
		}
		// The name in status is cut after 15 characters.
		command, err := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		if err != nil {
			continue
		}
		name, _, _ := strings.Cut(string(command), "\x00")
		found = append(found, process{Name: filepath.Base(name), PID: fields["Pid"], MiB: fields["VmRSS"] / 1024})
	}
	sort.Slice(found, func(i, j int) bool { return found[i].PID < found[j].PID })
	return found
}

// parseProcStatus returns the numbers in /proc/<pid>/status.
func parseProcStatus(content []byte) map[string]int {
	fields := map[string]int{}
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		if n, err := strconv.Atoi(value); err == nil {
			fields[name] = n
		}
	}
	return fields
}
