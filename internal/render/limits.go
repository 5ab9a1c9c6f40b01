package render

import "time"

// Limits bound what one render may cost. A zero field takes its default.
type Limits struct {
	// MaxFiles is the number of files that kustomize may open, counting a file
	// each time it is opened, so that bases included from many sides are bounded
	// too. Default 4,096.
	MaxFiles int
	// MaxBytes is the number of bytes that kustomize may read, counted likewise.
	// Default 16 MiB.
	MaxBytes int
	// MaxDepth is the nesting depth of one YAML document. Default 100.
	MaxDepth int
	// MaxAliases is the number of YAML aliases in one file. Default 200.
	MaxAliases int
	// MaxNodes is the number of YAML nodes of one file once its aliases are
	// expanded. Default 500,000.
	MaxNodes int
	// MaxObjects is the number of objects, in the files read and in the result.
	// Default 2,000, the length of an inventory.
	MaxObjects int
	// Timeout is the longest time a render may take. Default 60 s. A render that
	// overruns is given up at once; its goroutine ends at its next file access.
	Timeout time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.MaxFiles, 4096},
		{&l.MaxBytes, 16 << 20},
		{&l.MaxDepth, 100},
		{&l.MaxAliases, 200},
		{&l.MaxNodes, 500_000},
		{&l.MaxObjects, 2000},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	if l.Timeout <= 0 {
		l.Timeout = time.Minute
	}
	return l
}
