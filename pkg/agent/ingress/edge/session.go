package edge

import "net/http"

func (s *Session) name() string {
	if s.Cookie == "" {
		return "skiff-session"
	}
	return s.Cookie
}

func (s *Session) cookie(id string, secure bool) string {
	c := &http.Cookie{Name: s.name(), Value: id, Path: s.Path, MaxAge: int(s.MaxAge.Seconds()), HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	if c.Path == "" {
		c.Path = "/"
	}
	return c.String()
}
