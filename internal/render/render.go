package render

import (
	"context"
	"errors"
	"fmt"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4" // the one that kustomize applies patches with

	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/tree"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// rendererVersion is raised whenever the same input may give other objects.
const rendererVersion = "1"

// kustomizeVersion is that of sigs.k8s.io/kustomize/api in go.mod; a test compares.
const kustomizeVersion = "v0.21.1"

// Version names the renderer. Two renders of the same tree by the same version
// give the same objects; it is part of an overlay's inputs.
func Version() string { return "capstan/" + rendererVersion + " kustomize/" + kustomizeVersion }

// Input is what a render depends on, besides Version.
type Input struct {
	// Tree is the commit, or a directory of a working copy.
	Tree tree.Tree
	// Path is the overlay's directory in it.
	Path string
	// Substitute has the values for ${VAR}. Nil means that the Fleet declares no
	// substitution: then ${VAR} stays as it is.
	Substitute *Substitution
	// Limits bound the render; the zero value takes the defaults.
	Limits Limits
}

// Result is what an overlay declares at one commit.
type Result struct {
	// Objects are sorted by identity.
	Objects []*unstructured.Unstructured
	// Closure is what the render read and looked for.
	Closure Closure
	// Warnings are for people; sorted, without values.
	Warnings []string
	// Variables are the names that ${...} expressions refer to, sorted. Empty
	// without substitution.
	Variables []string
}

// maxCopied is how many bytes the copy operations of one JSON patch may copy.
const maxCopied = 8 << 20

var primed sync.Once

// Prime sets what kustomize and its libraries keep in variables of the process:
// schemas and a limit. After that, renders only read them, so they need no lock
// among each other. Render
// calls it; calling it early moves the cost (about 0.1 s) to the start.
func Prime() {
	primed.Do(func() {
		// The error is about a version that isn't built in; none is asked for.
		_ = openapi.SetSchema(nil, nil, true)
		openapi.SchemaForResourceType(yaml.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"})
		// Each "copy" of a JSON patch can double an object; unlimited by default.
		jsonpatch.AccumulatedCopySizeLimit = maxCopied
	})
}

// Render renders one overlay. If it fails, the Result is not nil but holds only
// the Closure and Variables so far: the overlay is worth another try when one of
// those answers or values changes. An error that wraps [ErrTree], or the context's error, says nothing
// about the overlay. A *[FileError] is for the author of the file it names.
func Render(ctx context.Context, in Input) (*Result, error) {
	Prime()
	in.Limits = in.Limits.withDefaults()
	path, ok := tree.Clean(in.Path)
	if !ok {
		return &Result{}, fmt.Errorf("overlay %q leaves the repository", in.Path)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, in.Limits.Timeout, fmt.Errorf("%w than %s to render; make it smaller", ErrTimeout, in.Limits.Timeout))
	defer cancel()

	fsys := newFileSystem(ctx, in)
	fsys.declareBase(path)
	type outcome struct {
		result *Result
		err    error
	}
	// Kustomize takes no context. A build that overruns is left behind: the file
	// system refuses its next access, and what it still computes is thrown away.
	done := make(chan outcome, 1)
	go func() {
		r, err := build(fsys, path, in)
		done <- outcome{r, err}
	}()
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		o.err = ctx.Err()
	}
	if o.err != nil {
		if ctx.Err() != nil && errors.Is(o.err, ctx.Err()) {
			o.err = context.Cause(ctx)
		}
		failed := &Result{Closure: fsys.closure()}
		if o.result != nil {
			failed.Variables = o.result.Variables
		}
		return failed, o.err
	}
	o.result.Closure = fsys.closure()
	return o.result, nil
}

// build runs kustomize and makes objects of its result.
func build(fsys *fileSystem, path string, in Input) (result *Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			// Kustomize panics on input it doesn't expect. The value may quote it.
			err = fmt.Errorf("overlay %s: kustomize can't handle this overlay (%T in the build)", path, r)
		}
	}()
	if kind, err := fsys.kindOf(path); err != nil {
		return nil, err
	} else if kind != tree.Dir {
		return nil, &FileError{Path: in.Path, Reason: "this overlay doesn't exist in the commit"}
	}
	resources, err := krusty.MakeKustomizer(options()).Run(fsys, "/"+path)
	if failure := fsys.failed(); failure != nil {
		return nil, failure
	}
	if err != nil {
		return nil, fsys.explain(path, err)
	}
	return finish(fsys, resources, in)
}

func options() *krusty.Options {
	return &krusty.Options{
		Reorder: krusty.ReorderOptionNone, // objects are sorted by identity afterwards
		// Our file system ends at the tree, so bases beside the overlay are fine.
		LoadRestrictions: types.LoadRestrictionsNone,
		PluginConfig:     types.DisabledPluginConfig(),
	}
}

// finish substitutes and converts the resources, and checks the set they form.
func finish(fsys *fileSystem, resources resmap.ResMap, in Input) (*Result, error) {
	if n := resources.Size(); n > in.Limits.MaxObjects {
		return nil, fmt.Errorf("overlay %s renders %d objects, more than %d; split it", in.Path, n, in.Limits.MaxObjects)
	}
	result := &Result{}
	s := newSubstituter(in.Substitute)
	for _, r := range resources.Resources() {
		if err := fsys.ctx.Err(); err != nil {
			return nil, err
		}
		node := r.YNode()
		if in.Substitute != nil {
			s.object(node)
		}
		u, err := toUnstructured(node)
		if err != nil {
			return nil, err
		}
		result.Objects = append(result.Objects, u)
	}
	result.Warnings, result.Variables = s.warningList(), s.variableList()
	if err := s.err(); err != nil {
		return result, fmt.Errorf("overlay %s: %w", in.Path, err)
	}
	object.Sort(result.Objects)
	if err := checkSet(result.Objects); err != nil {
		return result, fmt.Errorf("overlay %s: %w", in.Path, err)
	}
	return result, nil
}
