package live

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"sync"

	"k8s.io/apimachinery/pkg/util/json"
)

// Writers and readers are a hundred times as large as what they write and read.
var (
	writers = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(nil, flate.DefaultCompression) // fails for unknown levels only
		return w
	}}
	readers = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// pack writes an object's content as compressed JSON: a tenth of what it takes to look
// at it.
func pack(content map[string]any) ([]byte, error) {
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("write as JSON: %w", err)
	}
	var packed bytes.Buffer
	w := writers.Get().(*flate.Writer) //nolint:forcetypeassert // there is nothing else in it
	defer writers.Put(w)
	w.Reset(&packed)
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return bytes.Clone(packed.Bytes()), nil // without the room that the buffer has
}

// unpack reads what pack wrote.
func unpack(packed []byte) (map[string]any, error) {
	r := readers.Get().(io.ReadCloser) //nolint:forcetypeassert // there is nothing else in it
	defer readers.Put(r)
	if err := r.(flate.Resetter).Reset(bytes.NewReader(packed), nil); err != nil { //nolint:forcetypeassert // its documentation says so
		return nil, fmt.Errorf("decompress: %w", err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	var content map[string]any
	if err := json.Unmarshal(plain, &content); err != nil {
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	return content, nil
}
