package signal

import "testing"

func TestSend(t *testing.T) {
	s := New()
	if len(s) != 0 {
		t.Error("a new signal has been sent")
	}
	s.Send()
	s.Send()
	<-s
	if len(s) != 0 {
		t.Error("a signal that was sent twice is received twice")
	}
	s.Send()
	if len(s) != 1 {
		t.Error("a signal that was received cannot be sent again")
	}
	s.Clear()
	s.Clear()
	if len(s) != 0 {
		t.Error("a signal that was cleared is received")
	}
}
