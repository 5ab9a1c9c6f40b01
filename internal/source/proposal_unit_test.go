package source

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// chain reads the commits of two histories without an end, each commit with the
// next as its parent.
func chain(h plumbing.Hash, _ bool) ([]byte, error) {
	next := h
	binary.BigEndian.PutUint64(next[8:], binary.BigEndian.Uint64(h[8:])+1)
	return fmt.Appendf(nil, "tree %s\nparent %s\ncommitter A <a> 1 +0000\n\n", next, next), nil
}

func TestMergeBaseSearchIsBounded(t *testing.T) {
	one, two := plumbing.Hash{1}, plumbing.Hash{2}
	const limit = 5000
	short := func(read func(plumbing.Hash, bool) ([]byte, error)) *ancestry {
		a := newAncestry(read)
		a.left = limit
		return a
	}
	_, err := short(chain).mergeBases(t.Context(), one, two)
	if ReasonOf(err) != TooLarge || !strings.Contains(err.Error(), "200000 commits") {
		t.Errorf("histories without an end: %v", err)
	}

	// A commit with very many parents counts as often.
	wide := func(h plumbing.Hash, _ bool) ([]byte, error) {
		var b bytes.Buffer
		if h == one {
			for i := range limit {
				fmt.Fprintf(&b, "parent %040x\n", i+1)
			}
		}
		return b.Bytes(), nil
	}
	if _, err := short(wide).mergeBases(t.Context(), one, two); ReasonOf(err) != TooLarge {
		t.Errorf("a commit with %d parents: %v", limit, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	_, err = newAncestry(func(h plumbing.Hash, trusted bool) ([]byte, error) {
		if reads++; reads == 100 {
			cancel()
		}
		return chain(h, trusted)
	}).mergeBases(ctx, one, two)
	if !errors.Is(err, context.Canceled) || reads > 101 {
		t.Errorf("cancelled: %v after %d commits", err, reads)
	}
}

// TestMergeBaseTrust: a commit that only the pull request reaches is read without
// trust, one of the target's history with it.
func TestMergeBaseTrust(t *testing.T) {
	commits := map[plumbing.Hash][]plumbing.Hash{{1}: {{3}}, {2}: {{4}}, {3}: {{5}}, {4}: {{5}}, {5}: nil}
	got := map[plumbing.Hash]bool{}
	bases, err := newAncestry(func(h plumbing.Hash, trusted bool) ([]byte, error) {
		got[h] = trusted
		var b []byte
		for _, p := range commits[h] {
			b = fmt.Appendf(b, "parent %s\n", p)
		}
		return fmt.Appendf(b, "committer A <a> %d +0000\n", 100-h[0]), nil
	}).mergeBases(t.Context(), plumbing.Hash{1}, plumbing.Hash{2})
	if err != nil || len(bases) != 1 || bases[0].hash != (plumbing.Hash{5}) {
		t.Errorf("%v, %v", bases, err)
	}
	for h, want := range map[byte]bool{1: false, 2: true, 3: false, 4: true} {
		if got[plumbing.Hash{h}] != want {
			t.Errorf("commit %d read with trust %t", h, !want)
		}
	}
}

func TestCommitDate(t *testing.T) {
	for content, want := range map[string]int64{
		"tree x\nauthor A <a> 1 +0000\ncommitter B <b> 1700000000 +0000\n\nmessage": 1_700_000_000,
		"committer B <b@>x> 5 -0100\n":                                              5,
		"committer B <b> -5 +0000\n":                                                -5,
		"committer B <b>\n":                                                         0,
		"committer B <b> soon\n":                                                    0,
		"committer 99999999999999999999999999 +0000\n":                              0,
		"tree x\n\ncommitter B <b> 7 +0000\n":                                       0,
		"":                                                                          0,
		"committer B <b> 99999999999999999999999999 +0000\n":                        0,
	} {
		if got := committed([]byte(content)); got != want {
			t.Errorf("%q: %d, want %d", content, got, want)
		}
	}
}

// packObject encodes an object of a pack whose header says this type and size.
func packObject(typ plumbing.ObjectType, size int64, base, content []byte) []byte {
	head := byte(typ)<<4 | byte(size&15)
	b := []byte{}
	for size >>= 4; size > 0; size >>= 7 {
		b = append(b, head|0x80)
		head = byte(size & 0x7f)
	}
	b = append(append(b, head), base...)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(content) // into memory
	_ = w.Close()
	return append(b, z.Bytes()...)
}

func TestWeighPack(t *testing.T) {
	const limit = 1000
	blob := func(n int) []byte {
		return packObject(plumbing.BlobObject, int64(n), nil, bytes.Repeat([]byte("x"), n))
	}
	delta := func(result uint64) []byte {
		content := binary.AppendUvarint(binary.AppendUvarint(nil, 5), result)
		return packObject(plumbing.REFDeltaObject, int64(len(content)), make([]byte, 20), content)
	}
	many := func(n int, object []byte) []byte { return bytes.Repeat(object, n) }
	tests := []struct {
		name    string
		count   uint32
		objects []byte
		want    string
	}{
		{"nothing", 0, nil, ""},
		{"largest object", 1, blob(limit), ""},
		{"object too large", 1, blob(limit + 1), "1001 bytes"},
		{"as much as may be", maxUnpacked, many(maxUnpacked, blob(limit)), ""},
		{"too much", maxUnpacked + 1, many(maxUnpacked+1, blob(limit)), "16000 bytes unpacked"},
		{"delta", 1, delta(limit), ""},
		{"delta that results in too much", 1, delta(limit + 1), "1001 bytes"},
		{"deltas that result in too much", maxUnpacked, many(maxUnpacked, delta(limit)), "16000 bytes unpacked"},
		{"delta that results in nonsense", 1, delta(1 << 63), "more than the limit"},
		{"delta without a size", 1, packObject(plumbing.REFDeltaObject, 1, make([]byte, 20), []byte{0x80}), "more than the limit"},
		{"object that claims more than it has", 1, packObject(plumbing.BlobObject, 900, nil, []byte("x")), errNotPack.Error()},
		{"object that claims less than it has", 1, packObject(plumbing.BlobObject, 1, nil, bytes.Repeat([]byte("x"), 900)), errNotPack.Error()},
		{"object that claims very much", 1, packObject(plumbing.BlobObject, 1<<50, nil, []byte("x")), "more than the limit"},
		{"too many objects", maxProposalObjects + 1, nil, "250001 objects"},
		{"objects that aren't there", 3, blob(1), errNotPack.Error()},
		{"not zlib", 1, []byte{0x31, 'x', 'x', 'x'}, errNotPack.Error()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pack := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), tt.count)
			name := filepath.Join(t.TempDir(), "pack")
			if err := os.WriteFile(name, append(pack, tt.objects...), 0o600); err != nil {
				t.Fatal(err)
			}
			err := weighPack(name, limit)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}
