package e2elog

import "testing"

type settings struct{}
type daemon struct{}

func newUnderstudy(t *testing.T, s settings) *daemon { return nil }
func (d *daemon) stage() *stage                      { return nil }
