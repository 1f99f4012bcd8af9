package recipes

import (
	"errors"
	"net/http"

	"github.com/gin-gonic/gin"
)

// OnceGin wraps a handler of gin. It is a handler and not one of gin's
// middlewares because Next goes through the chain only once, and a handler
// that was rolled back is called again.
func OnceGin(router *gin.Engine, once Middleware, h gin.HandlerFunc) gin.HandlerFunc {
	return func(c *gin.Context) {
		request, writer := c.Request, c.Writer
		defer func() { c.Request, c.Writer = request, writer }()
		matched := *request
		matched.Pattern = request.Method + " " + c.FullPath()
		once(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.Request = r
			c.Writer = gin.CreateTestContextOnly(w, router).Writer // gin's own writer, upon w
			h(c)
			c.Writer.WriteHeaderNow()
		})).ServeHTTP(writer, &matched)
	}
}

// Gin is a router of gin with the middleware on one route.
func Gin(once Middleware) http.Handler {
	router := gin.New()
	router.Use(gin.Recovery())
	router.POST("/orders/:item", OnceGin(router, once, func(c *gin.Context) {
		order, err := Place(c.Request.Context(), c.Param("item"))
		switch {
		case errors.Is(err, ErrSoldOut):
			c.AbortWithStatusJSON(http.StatusConflict, gin.H{"error": err.Error()})
		case err != nil:
			c.AbortWithStatusJSON(http.StatusInternalServerError, gin.H{"error": "try again"})
		default:
			c.JSON(http.StatusCreated, order)
		}
	}))
	return router
}
