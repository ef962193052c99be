package documents

import (
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// Add is what holds of two documents, of which the first was there before.
func (c *Collection[T]) Add(was, is Document[T]) Document[T] {
	all := documents[T]{}
	c.add(all, was)
	c.add(all, is)
	return all[was.Key]
}

// Parse reads a message of a bucket.
func (c *Collection[T]) Parse(b *wire.Bucket, msg *nats.Msg) (Document[T], error) {
	return c.parse(b, msg)
}
