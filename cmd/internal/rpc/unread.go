package rpc

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/proto"
)

// A handler returns as soon as gRPC has taken its answer, but a client that does not read
// leaves the answer in memory. So messages are followed until they are written: gRPC frees
// their buffers then, and also when the stream is reset, but not when the connection ends,
// which it tells its stats handler.

// call is a call of a client until its handler and all its messages are done.
type call struct {
	parts      atomic.Int64 // the handler, and messages that are not written yet
	leave      func()       // works once
	connection *connection
}

func (c *call) done() {
	if c.parts.Add(-1) == 0 {
		c.connection.remove(c)
		c.leave()
	}
}

// message makes m a part of the call; codec marshals it.
func (c *call) message(m any) *message {
	c.parts.Add(1)
	return &message{m, c}
}

type message struct {
	any
	call *call
}

// codec is gRPC's for protobuf, and reports when a message is written.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*message)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	body, isProto := m.any.(proto.Message)
	if !isProto || mem.IsBelowBufferPoolingThreshold(proto.Size(body)) {
		m.call.done()
		return c.CodecV2.Marshal(m.any)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(proto.Size(body))
	if _, err := (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend((*buf)[:0], body); err != nil {
		pool.Put(buf)
		m.call.done()
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, writtenPool{pool, m.call})}, nil
}

// writtenPool takes a buffer back when its message is written.
type writtenPool struct {
	mem.BufferPool
	call *call
}

func (p writtenPool) Put(buf *[]byte) {
	p.BufferPool.Put(buf)
	p.call.done()
}

// connection knows its calls, so that they end with it. A nil one knows nothing.
type connection struct {
	mu    sync.Mutex
	calls map[*call]struct{}
	ended bool
}

type connectionKey struct{}

func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

func (c *connection) add(one *call) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one.connection = c
	if !c.ended {
		c.calls[one] = struct{}{}
	}
}

func (c *connection) remove(one *call) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, one)
}

// end ends all calls.
func (c *connection) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for one := range c.calls {
		one.leave()
	}
	clear(c.calls)
}

// connections is a stats.Handler that makes the connection of each call, and ends it.
type connections struct{}

// TagConn implements stats.Handler.
func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{calls: map[*call]struct{}{}})
}

// HandleConn implements stats.Handler.
func (connections) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); ok {
		connectionOf(ctx).end()
	}
}

// TagRPC implements stats.Handler.
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (connections) HandleRPC(ctx context.Context, s stats.RPCStats) { arrived(ctx, s) }
