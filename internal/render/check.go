package render

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"

	"capstan.dev/capstan/internal/tree"
	"sigs.k8s.io/kustomize/api/types"
)

// role is what kustomize will take a file for; it decides what is checked when
// the file is read.
type role int

const (
	roleData     role = 1 << iota // content of a ConfigMap or Secret, not interpreted
	roleResource                  // manifests
	rolePatch                     // a strategic merge or JSON 6902 patch
	roleConfig                    // replacements or configurations
)

// checker checks one kustomization, or one builtin plugin's configuration, and
// declares the files that it may lead kustomize to.
type checker struct {
	fs *fileSystem
	// file is where the values come from, dir what its paths are relative to.
	file, dir string
	// lineOf finds the line of a value in the file.
	lineOf func(field, value string) int
}

func (c *checker) fail(field, value, reason string) error {
	return &FileError{Path: c.file, Line: c.lineOf(field, value), Reason: field + ": " + reason}
}

// resolve requires that a path leads to something inside the tree.
func (c *checker) resolve(fieldName, value string) (string, tree.Kind, error) {
	switch {
	case strings.TrimSpace(value) == "":
		return "", "", c.fail(fieldName, value, "a path is empty")
	case isRemote(value):
		return "", "", c.fail(fieldName, value, fmt.Sprintf("%q would be fetched from outside; copy it into this repository", value))
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", "", c.fail(fieldName, value, "a path holds a control character; rename the file")
	case path.IsAbs(value):
		return "", "", c.fail(fieldName, value, fmt.Sprintf("%q is absolute; write it relative to the directory of this file", value))
	}
	clean, ok := join(c.dir, value)
	if !ok {
		return "", "", c.fail(fieldName, value, fmt.Sprintf("%q leaves the repository; only files of the same commit can be used", value))
	}
	kind, err := c.fs.stat(clean)
	var fileErr *FileError
	switch {
	case errors.As(err, &fileErr): // a link or submodule on the way
		return "", "", c.fail(fieldName, value, fileErr.Error())
	case err != nil:
		return "", "", err
	case kind == "":
		return "", "", c.fail(fieldName, value, fmt.Sprintf("%q doesn't exist in this commit", value))
	}
	return clean, kind, nil
}

// file declares a path that must be a file.
func (c *checker) filePath(fieldName, value string, r role) error {
	clean, kind, err := c.resolve(fieldName, value)
	if err != nil {
		return err
	}
	if kind != tree.File {
		return c.fail(fieldName, value, fmt.Sprintf("%q is a directory; name a file", value))
	}
	if isKustomizationName(path.Base(clean)) {
		return c.fail(fieldName, value, fmt.Sprintf("%q is a kustomization; name its directory under resources, or rename the file", value))
	}
	c.fs.declare(clean, r)
	return nil
}

// base declares a path that must be a directory with a kustomization.
func (c *checker) base(fieldName, value, clean string) error {
	if clean == c.dir || strings.HasPrefix(c.dir+"/", clean+"/") || clean == "" {
		return c.fail(fieldName, value, fmt.Sprintf("%q contains this kustomization: a cycle; name another directory", value))
	}
	found := false
	for _, name := range kustomizationNames {
		kind, err := c.fs.stat(path.Join(clean, name))
		if err != nil {
			return err
		}
		found = found || kind == tree.File
	}
	if !found {
		return c.fail(fieldName, value, fmt.Sprintf("the directory %q has no kustomization.yaml; add one or list the files themselves", value))
	}
	c.fs.declareBase(clean)
	return nil
}

func (c *checker) resource(fieldName, value string) error {
	clean, kind, err := c.resolve(fieldName, value)
	if err != nil {
		return err
	}
	if kind == tree.Dir {
		return c.base(fieldName, value, clean)
	}
	return c.filePath(fieldName, value, roleResource)
}

func (c *checker) component(fieldName, value string) error {
	clean, kind, err := c.resolve(fieldName, value)
	if err != nil {
		return err
	}
	if kind != tree.Dir {
		return c.fail(fieldName, value, fmt.Sprintf("%q is a file; a component is a directory", value))
	}
	return c.base(fieldName, value, clean)
}

// inline checks YAML that is written inside another file.
func (c *checker) inline(fieldName, text string) (*facts, error) {
	f := factsOf.get([]byte(text))
	err := f.check(c.file, c.fs.limits)
	var fileErr *FileError
	if errors.As(err, &fileErr) {
		// A block scalar starts on the line after its key.
		return nil, &FileError{Path: c.file, Line: c.lineOf(fieldName, text) + fileErr.Line, Reason: fieldName + ": " + fileErr.Reason}
	}
	return f, nil
}

// patch checks a patch given by path or inline.
func (c *checker) patch(fieldName, file, text string) error {
	if file != "" {
		if err := c.filePath(fieldName, file, rolePatch); err != nil {
			return err
		}
	}
	if text == "" {
		return nil
	}
	_, err := c.inline(fieldName, text)
	return err
}

// pathOrInline tells the two forms of an entry apart as kustomize does, which
// parses it as YAML first. An entry that might be either is held to the rules of both.
func (c *checker) pathOrInline(fieldName, entry string) (inline bool, err error) {
	if isRemote(entry) {
		_, _, err := c.resolve(fieldName, entry)
		return false, err
	}
	if !strings.ContainsAny(entry, "\n{[") {
		return false, nil
	}
	_, err = c.inline(fieldName, entry)
	return true, err
}

func (c *checker) kvSources(fieldName string, s types.KvPairSources) error {
	for _, f := range s.FileSources {
		if err := c.filePath(fieldName, fileOfSource(f), roleData); err != nil {
			return err
		}
	}
	envs := slices.Clone(s.EnvSources)
	if s.EnvSource != "" {
		envs = append(envs, s.EnvSource)
	}
	for _, f := range envs {
		if err := c.filePath(fieldName, f, roleData); err != nil {
			return err
		}
	}
	return nil
}

// kustomization checks all path-carrying fields of types.Kustomization.
func (c *checker) kustomization(k *types.Kustomization) error {
	checks := []func() error{
		func() error { return each(k.Resources, "resources", c.resource) },
		func() error { return each(k.Components, "components", c.component) },
		func() error {
			return each(k.Configurations, "configurations", func(f, v string) error { return c.filePath(f, v, roleConfig) })
		},
		func() error { return each(k.Generators, "generators", c.pluginEntry) },
		func() error { return each(k.Transformers, "transformers", c.pluginEntry) },
		func() error { return each(k.Validators, "validators", c.pluginEntry) },
		func() error { return c.patches(k) },
		func() error {
			return each(k.Replacements, "replacements", func(f string, r types.ReplacementField) error {
				if r.Path == "" {
					return nil
				}
				return c.filePath(f, r.Path, roleConfig)
			})
		},
		func() error {
			return each(k.ConfigMapGenerator, "configMapGenerator", func(f string, a types.ConfigMapArgs) error { return c.kvSources(f, a.KvPairSources) })
		},
		func() error {
			return each(k.SecretGenerator, "secretGenerator", func(f string, a types.SecretArgs) error { return c.kvSources(f, a.KvPairSources) })
		},
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) patches(k *types.Kustomization) error {
	for _, p := range k.Patches {
		if err := c.patch("patches", p.Path, p.Patch); err != nil {
			return err
		}
	}
	for _, p := range k.PatchesJson6902 {
		if err := c.patch("patchesJson6902", p.Path, p.Patch); err != nil {
			return err
		}
	}
	for _, p := range k.PatchesStrategicMerge {
		inline, err := c.pathOrInline("patchesStrategicMerge", string(p))
		if err == nil && !inline {
			err = c.filePath("patchesStrategicMerge", string(p), rolePatch)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func each[T any](values []T, field string, check func(field string, value T) error) error {
	for _, v := range values {
		if err := check(field, v); err != nil {
			return err
		}
	}
	return nil
}
