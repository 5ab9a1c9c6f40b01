package source

import (
	"container/list"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// blobCache keeps the contents used last, up to a number of bytes. All snapshots
// of a mirror share it. It is safe for concurrent use.
type blobCache struct {
	mu    sync.Mutex
	left  int64 // bytes that still fit; negative only inside put
	order *list.List
	items map[plumbing.Hash]*list.Element
}

type cachedBlob struct {
	hash    plumbing.Hash
	content []byte
}

// blobOverhead is about what an entry costs besides its content, in bytes.
const blobOverhead = 200

func newBlobCache(bytes int64) *blobCache {
	return &blobCache{left: bytes, order: list.New(), items: map[plumbing.Hash]*list.Element{}}
}

func (c *blobCache) get(h plumbing.Hash) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[h]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(cachedBlob).content, true
}

func (c *blobCache) put(h plumbing.Hash, content []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[h]; ok {
		return
	}
	c.items[h] = c.order.PushFront(cachedBlob{h, content})
	c.left -= int64(len(content)) + blobOverhead
	for c.left < 0 {
		last := c.order.Remove(c.order.Back()).(cachedBlob)
		delete(c.items, last.hash)
		c.left += int64(len(last.content)) + blobOverhead
	}
}
