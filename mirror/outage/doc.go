// Package outage knows how the upstreams are, and remembers it.
package outage
